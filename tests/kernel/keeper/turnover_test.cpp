// SPDX-License-Identifier: GPL-2.0-or-later
// VMs that come and go, each in a trust group of its own, as libvirt's do: whatever of the daemon
// uses the group (fault service, pool, keeper, undertaker) gives it up, also over a restart.
#include <catch2/catch.hpp>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "daemon/bring_back/unfold.hpp"
#include "daemon/custody/adopter.hpp"
#include "daemon/custody/departures.hpp"
#include "daemon/custody/hand_over.hpp"
#include "daemon/custody/take_over.hpp"
#include "daemon/threads/apart.hpp"
#include "fold/folder.hpp"
#include "guest/pin_proof.hpp"
#include "keeper_process.hpp"
#include "kernel/count_all.hpp"
#include "kernel/guest_process.hpp"
#include "kernel/pin_test.hpp"
#include "scan/plan.hpp"
#include "store/contents.hpp"
#include "store/stats.hpp"

using namespace ramfold;
using namespace ramfold::daemon;
using namespace ramfold::keeper::test;
using test::GuestProcess;

namespace {

constexpr std::uint64_t kPages = 4;
constexpr std::uint64_t kArena = 1u << 24;
constexpr unsigned kDetachedMax = 200;  // VMs that are attached and detached by one daemon
constexpr std::size_t kDying = 12;      // VMs whose process ends while one daemon runs
constexpr std::size_t kStaying = 3;

std::string group_name(std::uint32_t id) { return "vm:" + std::to_string(id); }

// What one daemon has, but for agents and workers.
class Life {
 public:
  Life(const Directory& dir, const KeeperProcess& keeper, std::shared_ptr<fault::Pool> pool)
      : decisions_(dir / "state", "boot"), keeping_(keeper.socket()), pool_(std::move(pool)) {
    REQUIRE(eventually([&] { return keeping_.connect().has_value(); }));
    auto left = keeping_.inherit();
    REQUIRE(left.has_value());
    auto contents = left->store ? store::Contents::adopt(std::move(*left->store))
                                : store::Contents::create(ByteCount{kArena});
    REQUIRE(contents.has_value());
    contents_ = std::move(*contents);
    adopter_ = std::make_unique<Adopter>(*contents_, config_, decisions_, pool_);
    departures_ = std::make_unique<Departures>(vms_, keeping_, *contents_, stopping_);
    REQUIRE(departures_->begin().has_value());
    CHECK(left->unusable.empty());
    for (KeptVm& kept : left->vms) {
      auto vm = adopter_->adopt(std::move(kept));
      REQUIRE(vm.has_value());
      vms_.add(*vm);
      ramfold::test::count_all(**vm, *contents_);
    }
    REQUIRE((!contents_->recovering() || contents_->finish_recovery().has_value()));
    folder_ = std::make_unique<fold::Folder>(*contents_, proof_);
  }
  // As Host::stop(): VMs stay with the keeper.
  ~Life() {
    stopping_.store(true);
    departures_->stop();
    for (const VmHandle& vm : vms_.all()) CHECK(stop_faults(vm, UINT64_MAX));
    CHECK(eventually([] { return count_apart() == 0; }));
    contents_->hand_over();
    for (const VmHandle& vm : vms_.all()) vms_.remove(vm->vm->id());
    CHECK(eventually([] { return count_apart() == 0; }));
  }
  Life(const Life&) = delete;
  Life& operator=(const Life&) = delete;

  // All pages of the new VM are folded.
  VmHandle attach(GuestProcess& guest, std::uint32_t id) {
    guest::VmRecord record;
    guest::Vm::Files files = guest.files_for(id, record);
    group_name(id).copy(record.group, sizeof record.group - 1);
    files.record = std::move(*sys::make_memfd("record", ByteCount{kPageSize}, sys::Sealed::yes));
    files.pidfd = pidfd_of(guest.pid());
    REQUIRE(guest::write_record(files.record, record));
    auto vm = adopter_->make(record, std::move(files));
    REQUIRE(vm.has_value());
    vms_.add(*vm);
    REQUIRE(hand_over(**vm, keeping_, contents_->files()));
    for (std::uint64_t p = 0; p < kPages; ++p) guest.store(PageIndex{p}, seed(id, p));
    (void)(*vm)->vm->gate().open(0, (*vm)->vm->gate().epoch());
    REQUIRE(eventually([&] {
      pass(**vm);
      return (*vm)->vm->counters().folded_content.get() == kPages;
    }));
    return std::move(*vm);
  }
  void detach(const VmHandle& vm) {
    const auto unfolding = std::make_shared<Unfolding>(vm);
    const Status back = unfold(*vm, [](std::uint64_t) {}, stopping_);
    INFO((back ? "" : back.error().text()));
    REQUIRE(back.has_value());
    departures_->let_go(vm, UINT64_MAX);
  }
  void bury_dead() { departures_->bury_dead(); }
  std::set<std::string> groups() {
    contents_->trim();
    const store::Stats stats = contents_->stats();
    std::set<std::string> names;
    for (const auto& group : stats.groups) names.insert(group.name);
    return names;
  }
  std::size_t vms() const { return vms_.size(); }
  std::uint64_t stored() const { return contents_->stats().arena_in_slots.value; }
  std::uint64_t kept() const { return keeping_.held(); }
  static std::uint64_t seed(std::uint32_t id, std::uint64_t p) { return 100 * id + p + 1; }

 private:
  void pass(AttachedVm& vm) {
    sys::drain_page_batches();
    scan::Planner planner(proof_);
    auto windows = std::make_unique<std::array<scan::Window, scan::kChunkWindows>>();
    vm.vm->next_pass();
    const auto n = planner.plan(*vm.vm, 0, scan::ColdRule{1, 1}, *windows);
    REQUIRE(n.has_value());
    for (std::size_t i = 0; i < *n; ++i) {
      folder_->look(*vm.vm, vm.group, (*windows)[i]);
      folder_->leave(*vm.vm, vm.group, (*windows)[i], {});
    }
  }

  const policy::Current config_{policy::Config{}};
  Decisions decisions_;
  Keeping keeping_;
  const std::shared_ptr<fault::Pool> pool_;
  std::atomic<bool> stopping_{false};
  guest::PinProof proof_{test::pin_test()};
  std::unique_ptr<store::Contents> contents_;
  VmSet vms_;
  std::unique_ptr<Adopter> adopter_;
  std::unique_ptr<Departures> departures_;
  std::unique_ptr<fold::Folder> folder_;
};

using Guests = std::vector<std::unique_ptr<GuestProcess>>;

Guests some_guests(std::size_t count) {
  Guests guests;
  for (std::size_t i = 0; i < count; ++i) guests.push_back(GuestProcess::start(PageCount{kPages}));
  return guests;
}

// VMs that are detached, then VMs whose processes end: only those in `staying` are left.
void turn_over(Life& life, GuestProcess& again, Guests& dying, std::uint32_t& last,
               const std::set<std::string>& staying) {
  for (unsigned i = 0; i < kDetachedMax; ++i) {
    life.detach(life.attach(again, ++last));
    REQUIRE(again.load(PageIndex{1}) == GuestProcess::checksum(Life::seed(last, 1)));
  }
  for (const auto& guest : dying) (void)life.attach(*guest, ++last);
  CHECK(eventually([&] { return life.groups().size() == staying.size() + dying.size(); }));
  dying.clear();
  CHECK(eventually([&] {
    life.bury_dead();
    return life.vms() == staying.size() && count_apart() == 0;
  }));
  CHECK(eventually([&] { return life.groups() == staying; }));
}

}  // namespace

TEST_CASE("the groups of VMs that come and go are given up, a restart included") {
  const Directory dir;
  // All processes start before there is a connection to the keeper, of which they would keep a
  // copy; and before this process has threads (TSan).
  const KeeperProcess keeper(dir / "k");
  const auto again = GuestProcess::start(PageCount{kPages});
  Guests dying = some_guests(kDying);
  Guests dying_later = some_guests(kDying);
  Guests dying_between = some_guests(kDying);
  Guests staying = some_guests(kStaying);
  auto made = fault::Pool::make();
  REQUIRE(made.has_value());
  REQUIRE((*made)->begin().has_value());

  std::uint32_t last = 0;
  std::set<std::string> names;
  {
    Life life(dir, keeper, *made);
    for (const auto& guest : staying) {
      (void)life.attach(*guest, ++last);
      names.insert(group_name(last));
    }
    turn_over(life, *again, dying, last, names);
    for (const auto& guest : dying_between) (void)life.attach(*guest, ++last);
    CHECK(life.groups().size() == kStaying + kDying);
  }
  dying_between.clear();
  {
    Life life(dir, keeper, *made);
    // The next daemon buries those that the keeper had not seen end yet.
    CHECK(eventually([&] {
      life.bury_dead();
      return life.vms() == kStaying && count_apart() == 0;
    }));
    CHECK(eventually([&] { return life.groups() == names; }));
    turn_over(life, *again, dying_later, last, names);
    std::uint32_t id = 0;
    for (const auto& guest : staying) {
      ++id;
      for (std::uint64_t p = 0; p < kPages; ++p) {
        CHECK(guest->load(PageIndex{p}) == GuestProcess::checksum(Life::seed(id, p)));
      }
    }
    staying.clear();
    CHECK(eventually([&] {
      life.bury_dead();
      return life.vms() == 0 && count_apart() == 0;
    }));
    CHECK(eventually([&] { return life.groups().empty(); }));
    CHECK(life.stored() == 0);
    CHECK(life.kept() == 3);  // the store
  }
}
