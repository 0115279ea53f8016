// SPDX-License-Identifier: GPL-2.0-or-later
// Which pages the daemon's workers fold while the store has no room, and which of a VM without lz4.
#include <unistd.h>
#include <catch2/catch.hpp>

#include "daemon/work/scan_workers.hpp"
#include "kernel/fold_rig.hpp"
#include "kernel/pin_test.hpp"
#include "patience.hpp"
#include "store/arena/size_classes.hpp"
#include "store/stats.hpp"

using namespace ramfold;
using guest::Tag;
using test::GuestProcess;
using test::Rig;
using test::soon;

namespace {

constexpr std::uint64_t kPages = 64;

// The workers at a rig's VM, which is theirs meanwhile.
class Working {
 public:
  Working(Rig& rig, policy::VmTargets targets) : rig_(rig), attached_(new daemon::AttachedVm) {
    attached_->vm = std::move(rig.vm);
    attached_->group = std::move(rig.group);
    attached_->targets.store(targets);
    attached_->kept = attached_->agent_ready = true;
    attached_->cursor.next = scan::chunk_count(*attached_->vm);
    config_.fold.passes = 2;
    config_.fold.pass_seconds = 0.01;
    config_.scan.cpu = 1;
    daemon::HostVerdict verdict;
    verdict.may_observe = verdict.may_fold = true;
    verdict.memory = policy::Memory::is_short;
    host_.publish(std::move(verdict));
    vms_.add(attached_);
    workers_.fold_with(test::pin_test());
    workers_.set(policy::work_targets(config_));
    workers_.start();
  }
  ~Working() {
    workers_.stop();
    rig_.vm = std::move(attached_->vm);
    rig_.group = std::move(attached_->group);
  }
  Tag tag(std::uint64_t p) const { return vm().table().load(PageIndex{p})->tag(); }
  bool folds(std::uint64_t p) const {
    return test::soon_quiet([&] { return tag(p) == Tag::folded; });
  }
  guest::Vm& vm() const { return *attached_->vm; }
  void passes(std::uint64_t n) {
    const auto now = [this] {
      const std::lock_guard lock(attached_->cursor.mutex);
      return attached_->cursor.passes;
    };
    const std::uint64_t end = now() + n;
    REQUIRE(soon([&] { return now() >= end; }));
  }

 private:
  Rig& rig_;
  daemon::VmHandle attached_;
  policy::Config config_;
  daemon::HostState host_;
  daemon::VmSet vms_;
  daemon::ScanWorkers workers_{vms_, *rig_.contents, host_, config_};
};

}  // namespace

TEST_CASE("while the store is full, zeros and pages that it has are folded, without an error") {
  auto made = store::Contents::create(ByteCount{store::kSlabBytes * 2});
  REQUIRE(made.has_value());
  const std::shared_ptr<store::Contents> store(std::move(*made));
  Rig rig(kPages, store);
  // The first pages of the guest are stored and stay so; others fill the rest.
  for (std::uint64_t p = 0; p < 4; ++p) rig.process->store(PageIndex{p}, p + 1);
  rig.fold_until(4);
  // Such pages are of a few sizes: until none of any size has found room for long.
  std::vector<store::Ref> kept;
  unsigned refused = 0;
  for (std::uint64_t i = 100; refused < 100; ++i) {
    PageCopy page;
    test::fill_page(i, page.bytes.data());
    auto result = store->put(rig.group, page, store->hash(rig.group, page));
    refused = result ? 0 : refused + 1;
    if (result) kept.push_back(std::move(result->ref));
  }
  // In the first window, so that all others come after it was refused.
  rig.process->store(PageIndex{5}, 50);
  rig.process->store(PageIndex{40}, 0);
  for (std::uint64_t p = 48; p < 52; ++p) rig.process->store(PageIndex{p}, p - 47);
  {
    Working working(rig, {});
    for (const std::uint64_t p : {40u, 48u, 49u, 50u, 51u}) CHECK(working.folds(p));
    working.passes(5);
    CHECK(working.tag(5) == Tag::observed);
    CHECK(working.vm().counters().errors.get() == 0);
    kept.clear();
    CHECK(working.folds(5));  // there is room again
  }
  CHECK(rig.process->load(PageIndex{5}) == GuestProcess::checksum(50));
  for (std::uint64_t p = 48; p < 52; ++p)
    CHECK(rig.process->load(PageIndex{p}) == GuestProcess::checksum(p - 47));
}

TEST_CASE("without lz4, pages that nobody shares stay, and those of two leave raw") {
  Rig rig(kPages);
  for (std::uint64_t p = 0; p < 8; ++p) rig.process->store(PageIndex{p}, p + 1);
  rig.process->store(PageIndex{40}, 3);  // equal to page 2, in another window
  rig.process->store(PageIndex{41}, 0);
  policy::VmTargets targets;
  targets.lz4 = false;
  {
    Working working(rig, targets);
    for (const std::uint64_t p : {2u, 40u, 41u}) CHECK(working.folds(p));
    working.passes(5);
    for (const std::uint64_t p : {0u, 1u, 3u, 7u}) CHECK(working.tag(p) == Tag::observed);
    CHECK(working.vm().counters().errors.get() == 0);
  }
  const store::Stats stats = rig.contents->stats();
  CHECK(stats.forms[static_cast<std::size_t>(store::Form::raw)].contents == 1);
  CHECK(stats.forms[static_cast<std::size_t>(store::Form::lz4)].contents == 0);
  CHECK(rig.process->load(PageIndex{2}) == GuestProcess::checksum(3));
  CHECK(rig.process->load(PageIndex{40}) == GuestProcess::checksum(3));
}
