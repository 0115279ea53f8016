// SPDX-License-Identifier: GPL-2.0-or-later
// Several consumers of a VM's RAM: the result of one does not change the state of the others.
#include "daemon/bring_back/consumers.hpp"

#include <unistd.h>
#include <catch2/catch.hpp>
#include <map>
#include <thread>
#include <vector>

#include "base/clock.hpp"
#include "daemon/bring_back/unfold.hpp"
#include "kernel/fold_rig.hpp"
#include "kernel/silent_agents.hpp"
#include "patience.hpp"
#include "policy/amount.hpp"

using namespace ramfold;
using namespace ramfold::daemon;
using test::Rig;
using test::soon;

namespace {

class Answers final : public test::SilentAgents {
 public:
  void send_unfolded(const AttachedVm&, std::uint32_t token, bool ok) override {
    const std::lock_guard lock(mutex_);
    answers_[token] = ok;
  }
  void send_unfolding(const AttachedVm&, std::uint32_t token, std::uint64_t done,
                      std::uint64_t all) override {
    const std::lock_guard lock(mutex_);
    news_.push_back({token, done, all});
  }

  std::optional<bool> answer(std::uint32_t token) {
    const std::lock_guard lock(mutex_);
    const auto found = answers_.find(token);
    return found == answers_.end() ? std::nullopt : std::optional(found->second);
  }

  struct News {
    std::uint32_t token;
    std::uint64_t done, all;
  };
  std::vector<News> news() {
    const std::lock_guard lock(mutex_);
    return news_;
  }

 private:
  std::mutex mutex_;
  std::vector<News> news_;
  std::map<std::uint32_t, bool> answers_;
};

// A store each of whose reads takes a while; and from `most` reads on they are not answered before
// go_on().
class TardySource final : public store::ContentSource {
 public:
  TardySource(store::ContentSource& real, unsigned ms, unsigned most = ~0u)
      : real_(real), ms_(ms), most_(most) {}
  store::Got get(GroupId group, ContentId id, std::byte* out,
                 store::FetchTicket ticket) noexcept override {
    if (reads_.fetch_add(1) >= most_)
      while (!gone_on_) ::usleep(1000);
    ::usleep(ms_ * 1000);
    return real_.get(group, id, out, ticket);
  }
  void withdraw(store::FetchListener& listener) noexcept override { real_.withdraw(listener); }
  store::Booked drop(GroupId group, ContentId id) noexcept override {
    return real_.drop(group, id);
  }
  unsigned reads() const { return reads_; }
  void go_on() { gone_on_ = true; }

 private:
  store::ContentSource& real_;
  const unsigned ms_;
  const unsigned most_;
  std::atomic<unsigned> reads_{0};
  std::atomic<bool> gone_on_{false};
};

// A VM of whose pages 16 are folded.
struct Folded {
  explicit Folded(std::shared_ptr<store::Contents> store = Rig::make_store(),
                  store::ContentSource* source = nullptr)
      : rig(64, std::move(store), source) {
    for (std::uint64_t p = 0; p < 16; ++p) rig.process->store(PageIndex{p}, 100 + p);
    rig.pass();
    rig.pass();
    REQUIRE(rig.vm->counters().folded_content.get() == 16);
    vm = std::make_shared<AttachedVm>();
    vm->group = std::move(rig.group);
    vm->vm = std::move(rig.vm);
    vm->faults = std::move(rig.faults);
  }
  Rig rig;
  VmHandle vm;
};

// Who unfolds besides, as `detach` does.
class Other {
 public:
  explicit Other(const VmHandle& vm)
      : unfolding_(vm),
        thread_([this, vm] { status_ = unfold(*vm, [](std::uint64_t) {}, stop_); }) {
    REQUIRE(unfolding_.first());
  }
  ~Other() { end(); }
  void end() {
    if (thread_.joinable()) thread_.join();
  }
  const Status& status() const { return status_; }

 private:
  Unfolding unfolding_;
  std::atomic<bool> stop_{false};
  Status status_;
  std::thread thread_;
};

constexpr std::uint64_t kMs = 1'000'000;

// How long something waits for the next page, and how long a source takes for a page: a tenth of
// that. So the 16 pages of a VM take longer than the wait for one of them.
struct Pace {
  unsigned limit_ms = static_cast<unsigned>(test::patient(1000));
  unsigned page_ms = limit_ms / 10;
  std::uint64_t limit_ns() const { return limit_ms * kMs; }
};

policy::Config config_with(const char* reserve) {
  policy::Config config;
  config.host.reserve = *policy::parse_amount(reserve);
  return config;
}

// Consumers that wait for their pages at most `patience_ns` without progress, on a host that keeps
// `reserve` free. Define it after the VMs that it serves: it joins its threads when it ends.
struct Service {
  explicit Service(std::uint64_t patience_ns, const char* reserve = "0")
      : config(config_with(reserve)), consumers(retries, room, agents, stopping, patience_ns) {
    REQUIRE(retries.begin().has_value());
  }
  // As the daemon does: an attempt that is under way uses `consumers`.
  ~Service() { retries.stop(); }
  const sys::Procfs procfs;
  const policy::Current config;
  const Room room{procfs, config, [](GroupId) { return 0.0; }};
  std::atomic<bool> stopping{false};
  Answers agents;
  Retries retries{{5 * kMs, 5 * kMs}};
  Consumers consumers;
};

}  // namespace

TEST_CASE("a consumer that is refused leaves one that a look has found as it is") {
  Folded folded;
  const VmHandle& vm = folded.vm;
  Service service(50 * kMs, "100%");  // no room for those that wait
  Answers& agents = service.agents;
  Consumers& consumers = service.consumers;
  consumers.wants_to_begin(vm, 1, 0);
  CHECK(vm->stays_unfolded());
  REQUIRE(soon([&] { return agents.answer(1).has_value(); }));
  CHECK(agents.answer(1) == false);
  CHECK_FALSE(vm->stays_unfolded());  // it does not begin, so folding may go on
  CHECK(vm->vm->counters().folded_content.get() == 16);

  consumers.wants_to_begin(vm, 2, 0);
  consumers.has_begun(vm);  // uses the reserve
  REQUIRE(soon([&] { return agents.answer(2).has_value(); }));
  REQUIRE(soon([&] { return vm->vm->counters().folded_content.get() == 0; }));
  CHECK(vm->stays_unfolded());
}

TEST_CASE(
    "a consumer waits until everything is back, and another that was refused does not undo it") {
  Folded folded;
  const VmHandle& vm = folded.vm;
  Service service(60'000 * kMs);
  Answers& agents = service.agents;
  Consumers& consumers = service.consumers;
  Consumers impatient(service.retries, service.room, agents, service.stopping, 1);
  vm->counted.store(false);  // soon after a restart: nothing can be brought back yet
  impatient.wants_to_begin(vm, 1, 0);
  REQUIRE(soon([&] { return agents.answer(1).has_value(); }));
  CHECK(agents.answer(1) == false);
  consumers.wants_to_begin(vm, 2, 0);
  ::usleep(20'000);
  CHECK_FALSE(agents.answer(2).has_value());
  vm->counted.store(true);
  REQUIRE(soon([&] { return agents.answer(2).has_value(); }));
  CHECK(agents.answer(2) == true);
  CHECK(vm->vm->counters().folded_content.get() == 0);
  CHECK(vm->stays_unfolded());
}

TEST_CASE("a consumer waits for longer than its time while pages come back") {
  const auto store = Rig::make_store();
  const Pace pace;
  TardySource tardy(*store, pace.page_ms);
  Folded folded(store, &tardy);
  const VmHandle& vm = folded.vm;
  Service service(pace.limit_ns());
  Answers& agents = service.agents;
  Consumers& consumers = service.consumers;
  const std::uint64_t began = monotonic_ns();
  {
    auto other = std::make_unique<Other>(vm);
    consumers.wants_to_begin(vm, 1, 0);
    consumers.wants_to_begin(vm, 2, 0);  // behind the first
    other->end();
    CHECK(other->status().has_value());
    CHECK_FALSE(agents.answer(1).has_value());
  }
  CHECK(monotonic_ns() - began > pace.limit_ns() + pace.limit_ns() / 2);
  REQUIRE(soon([&] { return agents.answer(1).has_value() && agents.answer(2).has_value(); }));
  CHECK(agents.answer(1) == true);
  CHECK(agents.answer(2) == true);
  CHECK(vm->vm->counters().folded_content.get() == 0);
  std::map<std::uint32_t, std::uint64_t> last;
  for (const Answers::News& n : agents.news()) {
    CHECK(n.done > last[n.token]);
    CHECK(n.done <= n.all);
    CHECK(n.all <= 64);
    last[n.token] = n.done;
  }
  CHECK(last[1] != 0);
  CHECK(last[2] != 0);
  CHECK(agents.news().size() <= 2 * (1 + (monotonic_ns() - began) / (1000 * kMs)));
}

TEST_CASE("a consumer is refused when pages do not come back any more") {
  const auto store = Rig::make_store();
  TardySource tardy(*store, 10, 8);
  Folded folded(store, &tardy);
  const VmHandle& vm = folded.vm;
  Service service(static_cast<std::uint64_t>(test::patient(500)) * kMs);
  Answers& agents = service.agents;
  Consumers& consumers = service.consumers;
  Other other(vm);
  consumers.wants_to_begin(vm, 1, 0);
  REQUIRE(soon([&] { return agents.answer(1).has_value(); }));
  CHECK(agents.answer(1) == false);
  CHECK(tardy.reads() == 9);
  CHECK(vm->vm->counters().folded_content.get() == 8);
  CHECK_FALSE(vm->stays_unfolded());
  tardy.go_on();
  other.end();
  CHECK(vm->vm->counters().folded_content.get() == 0);
}

TEST_CASE("unfolding that is slow and steady is not given up, one that stands still is") {
  const auto store = Rig::make_store();
  std::atomic<bool> stopping{false};
  SECTION("steady") {
    const Pace pace;
    TardySource tardy(*store, pace.page_ms);
    Folded folded(store, &tardy);
    const auto unfolding = std::make_shared<Unfolding>(folded.vm);
    const std::uint64_t began = monotonic_ns();
    CHECK(unfold_apart(unfolding, pace.limit_ns(), [](std::uint64_t) {}, stopping).has_value());
    CHECK(monotonic_ns() - began > pace.limit_ns() + pace.limit_ns() / 2);
    CHECK(folded.vm->vm->counters().folded_content.get() == 0);
  }
  SECTION("standing still") {
    TardySource tardy(*store, 1, 8);
    Folded folded(store, &tardy);
    const auto unfolding = std::make_shared<Unfolding>(folded.vm);
    const std::uint64_t limit_ns = static_cast<std::uint64_t>(test::patient(300)) * kMs;
    const Status status = unfold_apart(unfolding, limit_ns, [](std::uint64_t) {}, stopping);
    REQUIRE_FALSE(status.has_value());
    CHECK(status.error().code == ETIMEDOUT);
    CHECK(folded.vm->held == 1);
    tardy.go_on();
    REQUIRE(soon([&] { return folded.vm->held == 0; }));
    CHECK(folded.vm->vm->counters().folded_content.get() == 0);
  }
}

TEST_CASE("an unfold ends where a folded page of the VM is mapped over") {
  // COPY says ENOENT there: the address range is no RAM any more.
  Folded folded;
  const VmHandle& vm = folded.vm;
  constexpr PageIndex kNine{9};
  folded.rig.process->map_over(kNine);
  std::atomic<bool> stopping{false};
  const auto unfolding = std::make_shared<Unfolding>(vm);
  const auto limit_ns = static_cast<std::uint64_t>(test::patient(20'000)) * kMs;
  const Status done = unfold_apart(unfolding, limit_ns, [](std::uint64_t) {}, stopping);
  INFO((done ? "" : done.error().text()));
  CHECK(done.has_value());
  CHECK(vm->vm->counters().folded_content.get() == 0);
  CHECK(vm->came_back.load() == 16);
  PageCopy expected;
  PageCopy page;
  for (std::uint64_t p = 0; p < 16; ++p) {
    INFO("page " << p);
    CHECK(vm->vm->table().load(PageIndex{p})->tag() == guest::Tag::none);
    test::fill_page(100 + p, expected.bytes.data());
    REQUIRE(vm->vm->read_pages({PageIndex{p}, PageCount{1}}, page.bytes.data()));
    CHECK(page.bytes == expected.bytes);
    const std::uint64_t seed = p == kNine.value ? 0 : 100 + p;
    CHECK(folded.rig.process->load(PageIndex{p}) == test::GuestProcess::checksum(seed));
  }
}
