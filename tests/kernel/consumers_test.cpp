// SPDX-License-Identifier: GPL-2.0-or-later
// Other consumers of a VM's RAM: what one of them comes to leaves the others as they are.
#include "daemon/bring_back/consumers.hpp"

#include <unistd.h>
#include <catch2/catch.hpp>
#include <map>

#include "kernel/fold_rig.hpp"
#include "patience.hpp"
#include "policy/amount.hpp"

using namespace ramfold;
using namespace ramfold::daemon;
using test::Rig;
using test::soon;

namespace {

class Answers final : public AgentAnswers {
 public:
  void send_unfolded(const AttachedVm&, std::uint32_t token, bool ok) override {
    const std::lock_guard lock(mutex_);
    answers_[token] = ok;
  }
  void send_detached(const AttachedVm&) override {}
  void finish_offers() override {}
  void invite_all() override {}
  void call_back(pid_t) override {}

  std::optional<bool> answer(std::uint32_t token) {
    const std::lock_guard lock(mutex_);
    const auto found = answers_.find(token);
    return found == answers_.end() ? std::nullopt : std::optional(found->second);
  }

 private:
  std::mutex mutex_;
  std::map<std::uint32_t, bool> answers_;
};

// A VM of whose pages 16 are folded.
struct Folded {
  Folded() : rig(64) {
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

constexpr std::uint64_t kMs = 1'000'000;

}  // namespace

TEST_CASE("a consumer that is refused leaves one that a look has found as it is") {
  Folded folded;
  const VmHandle& vm = folded.vm;
  const sys::Procfs procfs;
  policy::Config config;
  config.host.reserve = *policy::parse_amount("100%");  // no room for those that wait
  const Room room(procfs, config, [](GroupId) { return 0.0; });
  std::atomic<bool> stopping{false};
  Answers agents;
  {
    Retries retries({5 * kMs, 5 * kMs});
    REQUIRE(retries.begin().has_value());
    Consumers consumers(retries, room, agents, stopping, 50 * kMs);
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
}

TEST_CASE(
    "a consumer waits until everything is back, and another that was refused does not undo it") {
  Folded folded;
  const VmHandle& vm = folded.vm;
  const sys::Procfs procfs;
  policy::Config config;
  config.host.reserve = *policy::parse_amount("0");
  const Room room(procfs, config, [](GroupId) { return 0.0; });
  std::atomic<bool> stopping{false};
  Answers agents;
  Retries retries({5 * kMs, 5 * kMs});
  REQUIRE(retries.begin().has_value());
  Consumers consumers(retries, room, agents, stopping, 60'000 * kMs);
  Consumers impatient(retries, room, agents, stopping, 1);
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
