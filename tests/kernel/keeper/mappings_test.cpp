// SPDX-License-Identifier: GPL-2.0-or-later
// When a VM gets the pool of its group, what stands against it, and when the slots of a group are
// given out (src/daemon/custody/mappings). With a real keeper and store.
#include "daemon/custody/mappings.hpp"

#include <linux/capability.h>

#include <array>
#include <catch2/catch.hpp>
#include <memory>
#include <mutex>
#include <numeric>
#include <thread>
#include <vector>

#include "daemon/custody/departures.hpp"
#include "daemon/custody/hand_over.hpp"
#include "daemon/threads/apart.hpp"
#include "keeper_process.hpp"
#include "kernel/guest_process.hpp"
#include "kernel/silent_agents.hpp"
#include "store/contents.hpp"
#include "sys/capabilities.hpp"

using namespace ramfold;
using namespace ramfold::daemon;
using namespace ramfold::keeper::test;

namespace {

constexpr uid_t kUser = 1000;

class Agents final : public test::SilentAgents {
 public:
  explicit Agents(Keeping& keeping) : keeping_(keeping) {}
  bool send_pool(AttachedVm& vm) override {
    held = keeping_.held();
    const int flags = ::fcntl(vm.pool->descriptor().get(), F_GETFL);
    read_only = (flags & O_ACCMODE) == O_RDONLY;
    ++sent;
    vm.pool_sent.store(reads);
    return reads;
  }
  std::atomic<bool> reads{true};  // what it is sent
  std::atomic<unsigned> sent{0};
  std::atomic<std::uint64_t> held{0};  // places of the keeper in use when the pool was sent
  std::atomic<bool> read_only{false};

 private:
  Keeping& keeping_;
};

// A guest that has this capability, or none. A child has those of the thread that forks it.
std::unique_ptr<test::GuestProcess> guest_with(std::optional<int> capability) {
  std::unique_ptr<test::GuestProcess> guest;
  std::thread([&] {
    std::vector<int> others(CAP_LAST_CAP + 1);
    std::iota(others.begin(), others.end(), 0);
    if (capability) std::erase(others, *capability);
    if (sys::drop_capabilities(others)) guest = test::GuestProcess::start(PageCount{4});
  }).join();
  REQUIRE(guest != nullptr);
  return guest;
}

struct Rig {
  const Directory dir;
  KeeperProcess keeper{dir / "k"};
  std::unique_ptr<store::Contents> contents =
      std::move(*store::Contents::create(ByteCount{1u << 20}));
  Keeping keeping{keeper.socket()};
  Agents agents{keeping};
  HostState state;
  VmSet vms;
  const sys::Procfs procfs;
  std::atomic<bool> stopping{false};
  Departures departures{vms, keeping, *contents, stopping};
  Mappings mappings{{vms, *contents, keeping, agents, state, procfs, stopping}};
  std::vector<std::unique_ptr<test::GuestProcess>> guests;

  Rig() {
    state.recovering.store(false);
    REQUIRE(eventually([&] { return keeping.connect().has_value(); }));
  }
  ~Rig() {
    // Errands refer to this.
    (void)eventually([&] { return count_apart() == 0; });
  }
  // A VM that may map.
  VmHandle add(std::uint32_t id, const char* group = "one", uid_t uid = kUser,
               std::optional<int> capability = {}) {
    guests.push_back(guest_with(capability));
    guest::VmRecord said;
    guest::Vm::Files files = guests.back()->files_for(id, said);
    said.uid = uid;
    files.record = std::move(*sys::make_memfd("record", ByteCount{kPageSize}, sys::Sealed::yes));
    files.pidfd = pidfd_of(guests.back()->pid());
    REQUIRE(guest::write_record(files.record, said));
    auto vm = std::make_shared<AttachedVm>();
    vm->vm = std::move(*guest::Vm::make(said, std::move(files)));
    vm->group = std::move(*contents->group(group));
    vm->pool = std::make_unique<fold::VmPool>(*contents, vm->group, PageCount{4});
    policy::VmTargets targets;
    targets.map = true;
    vm->targets.store(targets);
    {
      const MutexLock lock(vm->facts.mutex);
      vm->facts.capabilities = RF_CAP_COMMANDS | RF_CAP_MAPPING;
    }
    vm->agent_ready.store(true);
    vm->fenced.store(true);
    vms.add(vm);
    return vm;
  }
  VmHandle added_and_kept(std::uint32_t id, const char* group = "one", uid_t uid = kUser) {
    VmHandle vm = add(id, group, uid);
    REQUIRE(hand_over(*vm, keeping, contents->files()));
    return vm;
  }
  bool soon(const std::function<bool()>& done) {
    return eventually([&] {
      mappings.tend();
      return done();
    });
  }
  // The obstacle after its custody has had time to do all that it can.
  MapObstacle settled(const AttachedVm& vm) {
    for (int i = 0; i < 20; ++i) {
      mappings.tend();
      std::this_thread::sleep_for(5ms);
    }
    return vm.map_obstacle;
  }
  bool gives_slots(GroupId group) {
    PageCopy page{};
    page.bytes.fill(std::byte{7});
    const ContentHash hash = contents->hash(group, page);
    auto first = contents->put(group, page, hash);
    auto second = contents->put(group, page, hash);
    REQUIRE(first.has_value());
    REQUIRE(second.has_value());
    const std::array<ContentId, 1> ids{first->ref.id()};
    std::array<Result<store::PoolSlot>, 1> slots{store::PoolSlot{}};
    contents->share_run(group, ids, slots);
    if (!slots[0]) return false;
    REQUIRE(contents->unmap(group, *slots[0]) == store::Booked::done);
    return true;
  }
};

}  // namespace

TEST_CASE("a VM gets a read-only pool after the keeper has it, once for each connection") {
  Rig rig;
  const VmHandle vm = rig.added_and_kept(1);
  const std::uint64_t held = rig.keeping.held();
  REQUIRE(rig.soon([&] { return vm->pool_sent.load(); }));
  CHECK(rig.agents.sent == 1);
  CHECK(rig.agents.held == held + 1);
  CHECK(rig.agents.read_only);
  CHECK(vm->may_restore());
  CHECK(vm->may_map());
  CHECK(rig.gives_slots(vm->group));
  CHECK_FALSE(why_not_mapped(*vm).has_value());

  // A second VM of the group gets the same pool, and the keeper needs no further place.
  const VmHandle other = rig.added_and_kept(2);
  const std::uint64_t held_two = rig.keeping.held();
  REQUIRE(rig.soon([&] { return other->pool_sent.load(); }));
  CHECK(other->pool->file() == vm->pool->file());
  CHECK(rig.keeping.held() == held_two);

  vm->pool_sent.store(false);  // its agent has connected anew
  CHECK_FALSE(vm->may_map());
  rig.agents.reads.store(false);
  REQUIRE(rig.soon([&] { return rig.agents.sent >= 3; }));
  CHECK_FALSE(vm->may_map());
  rig.agents.reads.store(true);
  REQUIRE(rig.soon([&] { return vm->may_map(); }));
}

TEST_CASE("what stands against mapping is told, and goes when it has gone") {
  Rig rig;
  const VmHandle vm = rig.add(1);
  CHECK(rig.settled(*vm) == MapObstacle::keeper);  // the VM is not kept
  CHECK(why_not_mapped(*vm)->code == "no-mapping");
  REQUIRE(hand_over(*vm, rig.keeping, rig.contents->files()));
  REQUIRE(rig.soon([&] { return vm->may_map(); }));

  SECTION("the switch") {
    policy::VmTargets targets = vm->targets.load();
    targets.map = false;
    vm->targets.store(targets);
    CHECK(rig.settled(*vm) == MapObstacle::off);
    CHECK_FALSE(vm->may_map());
    CHECK(vm->may_restore());
    CHECK_FALSE(why_not_mapped(*vm).has_value());
    targets.map = true;
    vm->targets.store(targets);
  }
  SECTION("its agent") {
    vm->agent_ready.store(false);
    CHECK(rig.settled(*vm) == MapObstacle::agent);
    vm->agent_ready.store(true);
  }
  SECTION("an agent that cannot") {
    const auto set = [&](std::uint64_t capabilities) {
      const MutexLock lock(vm->facts.mutex);
      vm->facts.capabilities = capabilities;
    };
    set(RF_CAP_COMMANDS);
    CHECK(rig.settled(*vm) == MapObstacle::agent);
    set(RF_CAP_COMMANDS | RF_CAP_MAPPING);
  }
  SECTION("a consumer of its RAM") {
    vm->consumers.store(1);
    CHECK(rig.settled(*vm) == MapObstacle::stops);
    vm->consumers.store(0);
  }
  SECTION("a keeper that lost it") {
    vm->kept.store(false);
    CHECK(rig.settled(*vm) == MapObstacle::keeper);
    vm->kept.store(true);
  }
  CHECK(rig.settled(*vm) == MapObstacle::nothing);
  CHECK(vm->may_map());
  CHECK(rig.agents.sent == 1);
}

TEST_CASE("a QEMU of the daemon's user gets no pool") {
  Rig rig;
  const VmHandle vm = rig.added_and_kept(1, "one", ::geteuid());
  CHECK(rig.settled(*vm) == MapObstacle::root);
  CHECK(why_not_mapped(*vm)->text.find("runs as root") != std::string::npos);
  CHECK_FALSE(vm->pool->is_open());
  CHECK(rig.agents.sent == 0);
}

TEST_CASE("S5: a QEMU that could open the file of a pool for writing gets no pool") {
  Rig rig;
  const int capability = GENERATE(CAP_DAC_OVERRIDE, CAP_FOWNER, CAP_CHOWN, CAP_SETUID);
  const VmHandle vm = rig.add(1, "one", kUser, capability);
  REQUIRE(hand_over(*vm, rig.keeping, rig.contents->files()));
  CHECK(rig.settled(*vm) == MapObstacle::root);
  CHECK(why_not_mapped(*vm)->text.find("has a capability") != std::string::npos);
  CHECK_FALSE(vm->pool->is_open());
  CHECK(rig.agents.sent == 0);
  // Another of its group is none the worse, nor is one whose capability leads to no file.
  const VmHandle other = rig.add(2, "one", kUser, CAP_NET_ADMIN);
  REQUIRE(hand_over(*other, rig.keeping, rig.contents->files()));
  REQUIRE(rig.soon([&] { return other->pool_sent.load(); }));
  CHECK(rig.agents.sent == 1);
  CHECK(vm->map_obstacle == MapObstacle::root);
}

TEST_CASE("the slots of a group wait for each of its VMs, and for no other's") {
  Rig rig;
  store::GroupUse one = std::move(*rig.contents->group("one"));
  store::GroupUse two = std::move(*rig.contents->group("two"));
  auto pool = rig.contents->pool(one);
  auto other = rig.contents->pool(two);
  REQUIRE(rig.gives_slots(one));
  // A restart: the pools are there, and nobody knows who maps them.
  auto files = store::StoreFiles{std::move(*rig.contents->files().contents.duplicate()),
                                 std::move(*rig.contents->files().arena.duplicate()),
                                 std::move(*rig.contents->files().groups.duplicate()),
                                 std::move(*rig.contents->pool_files())};
  rig.contents->hand_over();
  auto next = std::move(*store::Contents::adopt(std::move(files)));
  store::GroupUse first = std::move(*next->group("one"));
  store::GroupUse second = std::move(*next->group("two"));
  REQUIRE(next->finish_recovery().has_value());
  std::swap(rig.contents, next);
  Mappings mappings(
      {rig.vms, *rig.contents, rig.keeping, rig.agents, rig.state, rig.procfs, rig.stopping});
  const VmHandle silent = rig.add(1);
  silent->fenced.store(false);
  silent->vm->set_mappings_known(false);
  const VmHandle known = rig.add(2);
  (void)rig.add(3, "two");
  CHECK_FALSE(rig.gives_slots(first));
  const auto soon = [&](const std::function<bool()>& done) {
    return eventually([&] {
      mappings.tend();
      return done();
    });
  };
  REQUIRE(soon([&] { return rig.gives_slots(second); }));
  CHECK_FALSE(rig.gives_slots(first));
  CHECK(silent->map_obstacle == MapObstacle::keeper);
  SECTION("its agent answers the fence") {
    mappings.fenced(silent);
    REQUIRE(soon([&] { return rig.gives_slots(first); }));
    CHECK(silent->vm->mappings_known());
  }
  SECTION("it ends") {
    rig.guests.front().reset();
    REQUIRE(soon([&] {
      rig.departures.bury_dead();
      return rig.gives_slots(first);
    }));
  }
  REQUIRE(eventually([&] { return count_apart() == 0; }));
  // The VMs' pools refer to the store that is theirs.
  std::swap(rig.contents, next);
}

TEST_CASE("the keeper forgets the pool of a group that is gone") {
  Rig rig;
  VmHandle vm = rig.added_and_kept(1);
  const std::uint64_t held = rig.keeping.held();
  REQUIRE(rig.soon([&] { return vm->pool_sent.load(); }));
  REQUIRE(rig.keeping.held() == held + 1);
  rig.vms.remove(vm->vm->id());
  REQUIRE(rig.keeping.drop_vm(vm->vm->id()));
  vm.reset();
  REQUIRE(rig.soon([&] {
    rig.contents->trim();
    return rig.keeping.held() == 3;  // the store
  }));
}
