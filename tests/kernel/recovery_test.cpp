// SPDX-License-Identifier: GPL-2.0-or-later
// Counts references while faults are served, as after a restart. A VM that cannot be counted does
// not stop the recovery, and what it may name stays.
#include "daemon/custody/recovery.hpp"

#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <catch2/catch.hpp>

#include <algorithm>
#include <atomic>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "base/clock.hpp"
#include "kernel/fold_rig.hpp"
#include "kernel/silent_agents.hpp"
#include "kernel/slow_source.hpp"
#include "store/stats.hpp"

using namespace ramfold;
using test::Rig;
using test::SlowSource;
using test::soon;

namespace {

constexpr std::uint64_t kPages = 8;
constexpr PageIndex kHeld{3};

// A VM with a fault that owns its page until the store answers.
struct HeldVm {
  std::shared_ptr<store::Contents> store = Rig::make_store();
  SlowSource slow{*store};
  Rig rig{kPages, store, &slow};
  daemon::VmHandle attached = std::make_shared<daemon::AttachedVm>();

  HeldVm() {
    for (std::uint64_t p = 0; p < kPages; ++p) rig.process->store(PageIndex{p}, p + 1);
    rig.fold_until(kPages);
    slow.close();
    rig.process->load_apart(kHeld, 1);
    while (slow.waiting() == 0) sleep_ns(500'000);
    attached->vm = std::move(rig.vm);
    attached->counted = false;
    attached->vm->begin_uncounted();
  }
  ~HeldVm() {
    rig.faults->stop();
    rig.vm = std::move(attached->vm);
  }
  void let_go() {
    slow.open();
    CHECK(rig.process->collect(20'000) == test::GuestProcess::checksum(kHeld.value + 1));
  }
};

store::StoreFiles files_of(store::Contents& contents) {
  const auto copy = [](const sys::Fd& fd) { return std::move(*fd.duplicate()); };
  return {copy(contents.files().contents),
          copy(contents.files().arena),
          copy(contents.files().groups),
          {}};
}

// The recovery of a daemon that adopts the store of another.
struct Next {
  std::unique_ptr<store::Contents> contents;
  sys::Procfs procfs;
  daemon::VmSet vms;
  daemon::Keeping keeping{"/nonexistent/keeper"};
  daemon::LeftBehind left_behind{procfs};
  policy::Current config{policy::Config{}};
  daemon::Decisions decisions{"/nonexistent", "boot"};
  test::SilentAgents agents;
  daemon::StopFlag stopping;
  std::unique_ptr<daemon::Adopter> adopter;
  std::unique_ptr<daemon::Recovery> recovery;

  explicit Next(store::Contents& before) {
    auto adopted = store::Contents::adopt(files_of(before));
    REQUIRE(adopted.has_value());
    before.hand_over();
    contents = std::move(*adopted);
    adopter = std::make_unique<daemon::Adopter>(*contents, config, decisions, Rig::fault_pool());
    recovery =
        std::make_unique<daemon::Recovery>(vms, keeping, left_behind, *adopter, agents, stopping);
  }
  ~Next() { contents->hand_over(); }

  std::uint64_t stored() const {
    std::uint64_t sum = 0;
    for (const auto& form : contents->stats().forms) sum += form.contents;
    return sum;
  }
  std::uint64_t references() const {
    std::uint64_t sum = 0;
    for (const auto& form : contents->stats().forms) sum += form.references;
    return sum;
  }
  bool has(GroupId group, ContentId id) const {
    PageCopy page;
    return contents->get(group, id, page.bytes.data(), {}) == store::Got::done;
  }
  ContentId put(GroupId group, unsigned char value) const {
    PageCopy page;
    page.bytes.fill(std::byte{value});
    auto stored = contents->put(group, page, contents->hash(group, page));
    REQUIRE(stored.has_value());
    return stored->ref.release();
  }
};

}  // namespace

TEST_CASE("counting stops at a page that a fault holds, and goes on there") {
  HeldVm held;
  Next next(*held.store);
  const std::atomic<bool> stop{false};
  daemon::Counting counting(*held.attached);
  held.attached->group = *next.contents->group(held.rig.group_name);
  for (int i = 0; i < 3; ++i) {
    CHECK_FALSE(counting.go_on(*next.contents, stop));
    CHECK_FALSE(held.attached->counted);
    CHECK(held.attached->vm->is_counted(PageIndex{kHeld.value - 1}));
    CHECK_FALSE(held.attached->vm->is_counted(kHeld));
  }
  held.let_go();
  CHECK(soon([&] { return counting.go_on(*next.contents, stop); }));
  CHECK(held.attached->counted);
  CHECK(next.references() == kPages);
  CHECK(next.contents->stats().miscounted == 0);
}

TEST_CASE("a VM whose page a fault holds does not stop the recovery, and is counted later") {
  HeldVm held;
  Next next(*held.store);
  held.attached->group = *next.contents->group(held.rig.group_name);
  const GroupId group = held.attached->group;
  std::vector<ContentId> named;
  for (std::uint64_t p = 0; p < kPages; ++p)
    named.push_back(held.attached->vm->table().load(PageIndex{p})->content());
  next.vms.add(held.attached);

  held.attached->kept = true;
  held.attached->agent_ready = true;

  REQUIRE(next.recovery->run());
  CHECK_FALSE(next.contents->recovering());
  CHECK_FALSE(held.attached->counted);
  CHECK_FALSE(held.attached->wants_folding());
  CHECK(next.contents->has_uncounted(group));
  for (unsigned char i = 1; i < 100; ++i) {
    const ContentId more = next.put(group, i);
    CHECK(std::ranges::find(named, more) == named.end());
    CHECK(next.contents->drop(group, more) == store::Booked::done);
  }
  for (const ContentId id : named) CHECK(next.has(group, id));
  CHECK(next.stored() == kPages);

  held.let_go();
  next.recovery->count_rest();
  CHECK(held.attached->counted);
  CHECK(held.attached->wants_folding());
  CHECK_FALSE(next.contents->has_uncounted());
  for (const ContentId id : named) {
    CHECK(next.has(group, id));
    CHECK(next.contents->drop(group, id) == store::Booked::done);
  }
  CHECK(next.stored() == 0);
  CHECK(next.contents->stats().miscounted == 0);
}

TEST_CASE("what VMs that are left behind may name stays until they have ended") {
  const auto store = Rig::make_store();
  const store::GroupUse before = *store->group("a");
  PageCopy page;
  page.bytes.fill(std::byte{7});
  const ContentId named = store->put(before, page, store->hash(before, page))->ref.release();
  Next next(*store);
  const pid_t child = ::fork();
  if (child == 0) {
    while (true) ::pause();
  }
  sys::Fd pidfd(static_cast<int>(::syscall(SYS_pidfd_open, child, 0)));
  REQUIRE(pidfd);
  const bool is_group_known = GENERATE(true, false);
  next.left_behind.add({VmId{1}, "a test", is_group_known ? "a" : "", std::move(pidfd), {}});

  REQUIRE(next.recovery->run());
  const store::GroupUse group = *next.contents->group("a");
  const store::GroupUse other = *next.contents->group("b");
  CHECK(group.id() == before.id());
  CHECK(next.contents->has_uncounted(group));
  CHECK(next.contents->has_uncounted(other) != is_group_known);
  for (unsigned char i = 10; i < 20; ++i) CHECK(next.put(group, i) != named);
  CHECK(next.has(group, named));
  std::thread rest([&] { next.recovery->count_rest(); });
  sleep_ns(600'000'000);
  CHECK(next.has(group, named));
  CHECK(next.contents->has_uncounted());
  CHECK(::kill(child, SIGKILL) == 0);
  rest.join();
  CHECK(::waitpid(child, nullptr, 0) == child);
  CHECK(next.left_behind.views().empty());
  CHECK_FALSE(next.contents->has_uncounted());
  CHECK(next.stored() == 10);
}

TEST_CASE("a daemon that is told to stop does not wait for a VM that nobody can count") {
  const auto store = Rig::make_store();
  Next next(*store);
  next.left_behind.add({VmId{1}, "a test", "", {}, {}});
  REQUIRE(next.recovery->run());
  std::thread rest([&] { next.recovery->count_rest(); });
  sleep_ns(300'000'000);
  CHECK(next.contents->has_uncounted());
  next.stopping.raise();
  rest.join();
  CHECK(next.contents->has_uncounted());
}
