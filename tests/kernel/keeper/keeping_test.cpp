// SPDX-License-Identifier: GPL-2.0-or-later
// What the daemon gives its keeper and takes back, in which order (src/daemon/custody/keeping).
#include "daemon/custody/keeping.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <catch2/catch.hpp>
#include <fstream>
#include <memory>
#include <thread>

#include "daemon/custody/hand_over.hpp"
#include "daemon/log.hpp"
#include "fake_manager.hpp"
#include "keeper_process.hpp"
#include "kernel/guest_process.hpp"
#include "store/contents.hpp"

using namespace ramfold;
using namespace ramfold::keeper::test;

namespace {

// What is written to stderr until end(), which counts its lines.
class LinesOfStderr {
 public:
  LinesOfStderr() : file_(memfd()), before_(::dup(STDERR_FILENO)) {
    ::dup2(file_.get(), STDERR_FILENO);
  }
  std::size_t end() {
    ::dup2(before_.get(), STDERR_FILENO);
    std::string text(static_cast<std::size_t>(::lseek(file_.get(), 0, SEEK_END)), ' ');
    REQUIRE(::pread(file_.get(), text.data(), text.size(), 0) == static_cast<ssize_t>(text.size()));
    return static_cast<std::size_t>(std::ranges::count(text, '\n'));
  }

 private:
  sys::Fd file_;
  sys::Fd before_;
};

struct Vm {
  std::unique_ptr<test::GuestProcess> guest = test::GuestProcess::start(PageCount{4});
  std::unique_ptr<guest::Vm> vm;

  explicit Vm(std::uint32_t id, uid_t uid = 0) {
    guest::VmRecord said;
    guest::Vm::Files files = guest->files_for(id, said);
    said.uid = uid;
    files.record = std::move(*sys::make_memfd("record", ByteCount{kPageSize}, sys::Sealed::yes));
    files.pidfd = pidfd_of(guest->pid());
    REQUIRE(guest::write_record(files.record, said));
    vm = std::move(*guest::Vm::make(said, std::move(files)));
  }
};

std::vector<std::string> names_of(keeper::Client& client) {
  std::vector<std::string> names;
  const auto kept = client.take_all();
  REQUIRE(kept.has_value());
  for (const keeper::Kept& one : *kept) names.push_back(one.name);
  return names;
}
std::size_t count_of(const std::vector<std::string>& names, std::string_view prefix) {
  return static_cast<std::size_t>(
      std::ranges::count_if(names, [&](const std::string& n) { return n.starts_with(prefix); }));
}

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
  REQUIRE(keeping.keep_vm(*guest.vm, (*contents)->files()));
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
  REQUIRE(keeping.keep_vm(*first.vm, (*contents)->files()));
  const std::uint64_t held = keeping.held();
  CHECK(held > 3);

  keeper.signal(SIGSTOP);
  std::atomic<bool> begun{false};
  std::atomic<bool> ended{false};
  Status kept;
  std::thread waiting([&] {
    begun = true;
    kept = keeping.keep_vm(*second.vm, (*contents)->files());
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

TEST_CASE(
    "one owner's VMs leave the keeper's other places to others, and the keeper is not blamed") {
  const Directory dir;
  // Room for 32 descriptors: three of the store, six of a VM.
  const KeeperProcess keeper(dir / "k", {}, 2 * 32 + 128);
  {
    std::ofstream(dir / "subuid") << "one:100000:10\none:200000:10\n";
  }
  const auto contents = store::Contents::create(ByteCount{1u << 20});
  REQUIRE(contents.has_value());
  // Before there is a connection, of which a child that does not exec would keep a copy.
  const std::array<uid_t, 4> uids{100000, 200001, 100002, 1000};  // three of one account
  std::vector<std::unique_ptr<Vm>> guests;
  std::vector<std::unique_ptr<daemon::AttachedVm>> vms;
  for (const uid_t uid : uids) {
    guests.push_back(std::make_unique<Vm>(static_cast<std::uint32_t>(guests.size() + 1), uid));
    vms.push_back(std::make_unique<daemon::AttachedVm>());
    vms.back()->vm = std::move(guests.back()->vm);
  }
  daemon::Keeping keeping(keeper.socket(), sys::SubordinateIds(dir / "subuid"));
  REQUIRE(eventually([&] { return keeping.connect().has_value(); }));
  for (const auto& vm : vms) (void)daemon::hand_over(*vm, keeping, (*contents)->files());
  CHECK(vms[0]->kept);
  CHECK(vms[1]->kept);
  CHECK_FALSE(vms[2]->kept);
  CHECK(daemon::why_not_kept(*vms[2]).code == "owner-share");
  CHECK(vms[3]->kept);
  CHECK(keeping.held() == 21);

  // It is the same for the next daemon.
  keeping.disconnect();
  daemon::Keeping next(keeper.socket(), sys::SubordinateIds(dir / "subuid"));
  REQUIRE(eventually([&] { return next.connect().has_value(); }));
  REQUIRE(next.inherit().has_value());
  CHECK_FALSE(daemon::hand_over(*vms[2], next, (*contents)->files()));
  CHECK(vms[2]->keep_error == EDQUOT);
  // And when a VM has gone there is room.
  REQUIRE(next.drop_vm(VmId{1}));
  CHECK(daemon::hand_over(*vms[2], next, (*contents)->files()));
  CHECK(vms[2]->keep_error == 0);
}

TEST_CASE("that the keeper takes no more is said once a VM, however many wait in turns") {
  const Directory dir;
  const KeeperProcess keeper(dir / "k", {}, 2 * 32 + 128);
  const auto contents = store::Contents::create(ByteCount{1u << 20});
  REQUIRE(contents.has_value());
  std::vector<std::unique_ptr<Vm>> guests;
  std::vector<std::unique_ptr<daemon::AttachedVm>> vms;
  for (std::uint32_t id = 1; id <= 4; ++id) {
    guests.push_back(std::make_unique<Vm>(id, 1000));
    vms.push_back(std::make_unique<daemon::AttachedVm>());
    vms.back()->vm = std::move(guests.back()->vm);
  }
  daemon::Keeping keeping(keeper.socket());
  REQUIRE(eventually([&] { return keeping.connect().has_value(); }));
  daemon::log::set_up();
  LinesOfStderr lines;
  for (int turn = 0; turn < 5; ++turn) {
    for (const auto& vm : vms) {
      if (!vm->kept) (void)daemon::hand_over(*vm, keeping, (*contents)->files());
    }
  }
  const std::size_t said = lines.end();
  CHECK(vms[1]->kept);
  CHECK_FALSE(vms[2]->kept);
  CHECK_FALSE(vms[3]->kept);
  CHECK(said == 2);
}

TEST_CASE("the store stays as long as a keeper that was started anew has a VM back") {
  const Directory dir;
  FakeManager manager(dir / "notify");
  auto keeper = std::make_unique<KeeperProcess>(dir / "k", manager.passes());
  const Vm guest(7);
  const auto contents = store::Contents::create(ByteCount{1u << 20});
  REQUIRE(contents.has_value());
  daemon::Keeping keeping(keeper->socket());
  REQUIRE(eventually([&] { return keeping.connect().has_value(); }));
  REQUIRE(keeping.keep_vm(*guest.vm, (*contents)->files()));
  REQUIRE(eventually([&] { return manager.names().contains("k.vm.7.record"); }));
  keeper.reset();
  keeper = std::make_unique<KeeperProcess>(dir / "k", manager.passes());
  REQUIRE(eventually([&] { return keeping.connect().has_value(); }));
  // The VM is not handed over again: this daemon does not serve it.
  const Status refused = keeping.drop_store();
  REQUIRE_FALSE(refused);
  CHECK(refused.error().code == EBUSY);
  REQUIRE(keeping.drop_vm(guest.vm->id()));
  CHECK(keeping.drop_store());
}

TEST_CASE("a pool comes back to the next daemon, and goes with its group or with the store") {
  const Directory dir;
  const KeeperProcess keeper(dir / "k");
  const Vm guest(7);
  auto contents = store::Contents::create(ByteCount{1u << 20});
  REQUIRE(contents.has_value());
  auto group = (*contents)->group("one");
  auto other = (*contents)->group("two");
  const auto pool = (*contents)->pool(group->id());
  const auto second = (*contents)->pool(other->id());
  REQUIRE(pool.has_value());
  REQUIRE(second.has_value());
  CHECK(pool->kept.id != second->kept.id);
  auto keeping = std::make_unique<daemon::Keeping>(keeper.socket());
  CHECK_FALSE(keeping->keep_pool(pool->kept, *guest.vm));  // not connected
  REQUIRE(eventually([&] { return keeping->connect().has_value(); }));
  CHECK(keeping->keep_pool(pool->kept, *guest.vm).error().code == ENOENT);
  CHECK(keeping->held() == 0);
  REQUIRE(keeping->keep_vm(*guest.vm, (*contents)->files()));
  const std::uint64_t without = keeping->held();
  REQUIRE(keeping->keep_pool(pool->kept, *guest.vm));
  REQUIRE(keeping->keep_pool(pool->kept, *guest.vm));
  REQUIRE(keeping->keep_pool(second->kept, *guest.vm));
  CHECK(keeping->held() == without + 2);
  CHECK_FALSE(keeping->drop_store());

  // The next daemon.
  keeping = std::make_unique<daemon::Keeping>(keeper.socket());
  REQUIRE(eventually([&] { return keeping->connect().has_value(); }));
  auto left = keeping->inherit();
  REQUIRE(left.has_value());
  REQUIRE(left->store.has_value());
  CHECK(left->store->pools.size() == 2);
  const std::uint64_t held = keeping->held();
  CHECK(held == without + 2);
  other->reset();
  auto adopted = store::Contents::adopt(std::move(*left->store));
  REQUIRE(adopted.has_value());
  auto again = (*adopted)->group("one");
  REQUIRE((*adopted)->finish_recovery().has_value());
  const auto files = (*adopted)->pool_files();
  REQUIRE(files.has_value());
  REQUIRE(files->size() == 1);  // nobody is in the second group
  CHECK(files->front().id == pool->kept.id);
  REQUIRE(keeping->forget_pools_but(*files));
  CHECK(keeping->held() == held - 1);
  REQUIRE(keeping->forget_pools_but(*files));
  CHECK(keeping->held() == held - 1);

  REQUIRE(keeping->drop_vm(guest.vm->id()));
  REQUIRE(keeping->drop_store());
  CHECK(keeping->held() == 0);
  CHECK_FALSE(keeping->keep_pool(files->front(), *guest.vm));  // it was about to when the VM left
  CHECK(keeping->held() == 0);
  keeping.reset();
  auto client = keeper::Client::connect(keeper.socket());
  REQUIRE(eventually([&] {
    client = keeper::Client::connect(keeper.socket());
    return client.has_value();
  }));
  CHECK(names_of(*client).empty());
}

TEST_CASE("a keeper that lost everything gets the pools before the first VM") {
  const Directory dir;
  auto keeper = std::make_unique<KeeperProcess>(dir / "k");
  const Vm guest(7);
  const auto contents = store::Contents::create(ByteCount{1u << 20});
  REQUIRE(contents.has_value());
  const auto group = (*contents)->group("one");
  const auto pool = (*contents)->pool(group->id());
  REQUIRE(pool.has_value());
  daemon::Keeping keeping(keeper->socket());
  REQUIRE(eventually([&] { return keeping.connect().has_value(); }));
  REQUIRE(keeping.keep_vm(*guest.vm, (*contents)->files()));
  REQUIRE(keeping.keep_pool(pool->kept, *guest.vm));
  const std::uint64_t held = keeping.held();
  keeper->kill();
  REQUIRE(eventually([&] { return !keeping.connected(); }));
  ::unlink((dir / "k").c_str());
  keeper = std::make_unique<KeeperProcess>(dir / "k");
  REQUIRE(eventually([&] { return keeping.connect().has_value(); }));
  REQUIRE(keeping.keep_vm(*guest.vm, (*contents)->files()));
  CHECK(keeping.held() == held);
  keeping.disconnect();
  auto client = keeper::Client::connect(keeper->socket());
  REQUIRE(eventually([&] {
    client = keeper::Client::connect(keeper->socket());
    return client.has_value();
  }));
  const auto names = names_of(*client);
  CHECK(names.size() == held);
  CHECK(count_of(names, "pool.") == 1);
}

TEST_CASE("pools without a store, which an `off` that was cut short leaves, are dropped") {
  const Directory dir;
  const KeeperProcess keeper(dir / "k");
  const auto contents = store::Contents::create(ByteCount{1u << 20});
  const auto group = (*contents)->group("one");
  const auto pool = (*contents)->pool(group->id());
  {
    auto client = keeper::Client::connect(keeper.socket());
    REQUIRE(eventually([&] {
      if (!client) client = keeper::Client::connect(keeper.socket());
      return client.has_value();
    }));
    REQUIRE(client->keep(daemon::KeptPools::name_of(pool->kept), pool->kept.file));
    REQUIRE(client->keep("pool.1.not-a-number", memfd()));
  }
  daemon::Keeping keeping(keeper.socket());
  REQUIRE(eventually([&] { return keeping.connect().has_value(); }));
  CHECK_FALSE(keeping.holds_anothers_store());
  auto left = keeping.inherit();
  REQUIRE(left.has_value());
  CHECK_FALSE(left->store.has_value());
  CHECK(keeping.held() == 0);
  keeping.disconnect();
  auto client = keeper::Client::connect(keeper.socket());
  REQUIRE(eventually([&] {
    if (!client) client = keeper::Client::connect(keeper.socket());
    return client.has_value();
  }));
  CHECK(names_of(*client).empty());
}

TEST_CASE("the name of a pool is read as it was written, and nothing else is") {
  using daemon::KeptPools;
  const auto parse = [](std::string_view name) { return KeptPools::parse(name, sys::Fd{}); };
  const store::PoolFile pool{GroupId{12}, sys::Fd{}, 0xfedc'ba98'7654'3210};
  CHECK(KeptPools::name_of(pool) == "pool.12.fedcba9876543210");
  REQUIRE(parse("pool.12.fedcba9876543210").has_value());
  CHECK(parse("pool.12.fedcba9876543210")->group == GroupId{12});
  CHECK(parse("pool.12.fedcba9876543210")->id == pool.id);
  for (const char* name : {"pool.", "pool.12", "pool.12.", "pool.x.0000000000000001", "pool.12.1",
                           "pool.012.0000000000000001", "pool.65536.0000000000000001",
                           "pool.12.000000000000000g", "vm.12.0000000000000001"}) {
    CHECK_FALSE(parse(name).has_value());
  }
}
