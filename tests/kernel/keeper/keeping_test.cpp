// SPDX-License-Identifier: GPL-2.0-or-later
// What the daemon gives its keeper and takes back, in which order (src/daemon/custody/keeping).
#include "daemon/custody/keeping.hpp"

#include <algorithm>
#include <atomic>
#include <catch2/catch.hpp>
#include <memory>
#include <thread>

#include "fake_manager.hpp"
#include "keeper_process.hpp"
#include "kernel/guest_process.hpp"

using namespace ramfold;
using namespace ramfold::keeper::test;

namespace {

struct Vm {
  std::unique_ptr<test::GuestProcess> guest = test::GuestProcess::start(PageCount{4});
  std::unique_ptr<guest::Vm> vm;

  explicit Vm(std::uint32_t id) {
    guest::VmRecord said;
    guest::Vm::Files files = guest->files_for(id, said);
    files.record = std::move(*sys::make_memfd("record", ByteCount{kPageSize}, sys::Sealed::yes));
    files.pidfd = pidfd_of(guest->pid());
    vm = std::move(*guest::Vm::make(said, std::move(files)));
  }
};

}  // namespace

TEST_CASE("a VM's record is the last that the keeper gets of it, and the first that goes") {
  // Killed in between, it leaves a VM without a record: one of which nothing is folded.
  const Directory dir;
  FakeManager manager(dir / "notify");
  const KeeperProcess keeper(dir / "k", manager.passes());
  const Vm guest(7);
  const auto contents = store::Contents::create(ByteCount{1u << 20});
  REQUIRE(contents.has_value());
  daemon::Keeping keeping(keeper.socket());
  REQUIRE(eventually([&] { return keeping.connect().has_value(); }));
  REQUIRE(keeping.keep_vm(*guest.vm, **contents));
  const std::string record = "k.vm.7.record";
  REQUIRE(eventually([&] {
    manager.read_all();
    return manager.stored.contains(record);
  }));
  const std::size_t of_vm = static_cast<std::size_t>(std::ranges::count_if(
      manager.stored, [](const auto& kept) { return kept.first.find(".vm.7.") == 1; }));
  REQUIRE(of_vm > 4);

  REQUIRE(keeping.drop_vm(guest.vm->id()));
  REQUIRE(eventually([&] {
    manager.read_all();
    return manager.removed.size() == of_vm;
  }));
  CHECK(manager.removed.front() == record);
}

TEST_CASE("who asks about a keeper that is stopped does not wait for it") {
  const Directory dir;
  const KeeperProcess keeper(dir / "k");
  const Vm first(7);
  const Vm second(8);
  const auto contents = store::Contents::create(ByteCount{1u << 20});
  REQUIRE(contents.has_value());
  daemon::Keeping keeping(keeper.socket());
  CHECK_FALSE(keeping.connected());
  REQUIRE(eventually([&] { return keeping.connect().has_value(); }));
  REQUIRE(keeping.keep_vm(*first.vm, **contents));
  const std::uint64_t held = keeping.held();
  CHECK(held > 3);

  keeper.signal(SIGSTOP);
  std::atomic<bool> begun{false};
  std::atomic<bool> ended{false};
  Status kept;
  std::thread waiting([&] {
    begun = true;
    kept = keeping.keep_vm(*second.vm, **contents);
    ended = true;
  });
  while (!begun) std::this_thread::sleep_for(1ms);
  std::this_thread::sleep_for(100ms);  // long enough for it to have sent its request
  const bool connected = keeping.connected();
  const std::uint64_t held_meanwhile = keeping.held();
  const pid_t pid = keeping.keeper_pid();
  const bool backed = keeping.backed();
  const bool anothers = keeping.holds_anothers_store();
  const bool waited = ended;
  keeper.signal(SIGCONT);
  waiting.join();
  CHECK_FALSE(waited);
  CHECK(connected);
  CHECK(held_meanwhile == held);
  CHECK(pid == keeper.pid());
  CHECK_FALSE(backed);
  CHECK_FALSE(anothers);
  CHECK(kept.has_value());
  CHECK(keeping.held() > held);
}

TEST_CASE("the end of a keeper is seen without a call, and its successor is another one") {
  const Directory dir;
  auto keeper = std::make_unique<KeeperProcess>(dir / "k");
  daemon::Keeping keeping(keeper->socket());
  REQUIRE(eventually([&] { return keeping.connect().has_value(); }));
  CHECK(keeping.keeper_pid() == keeper->pid());
  keeper->kill();
  CHECK(eventually([&] { return !keeping.connected(); }));
  CHECK(keeping.keeper_pid() == -1);
  ::unlink((dir / "k").c_str());
  keeper = std::make_unique<KeeperProcess>(dir / "k");
  REQUIRE(eventually([&] { return keeping.connect().has_value(); }));
  CHECK(keeping.connected());
  CHECK(keeping.keeper_pid() == keeper->pid());
  keeping.disconnect();
  CHECK_FALSE(keeping.connected());
  // Nothing of the old connection is left that would keep another daemon out.
  daemon::Keeping next(keeper->socket());
  CHECK(eventually([&] { return next.connect().has_value(); }));
}
