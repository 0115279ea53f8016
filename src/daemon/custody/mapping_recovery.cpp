// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/custody/mapping_recovery.hpp"

#include <algorithm>
#include <bit>
#include <cerrno>
#include <optional>

#include "base/clock.hpp"
#include "base/test_points.hpp"
#include "daemon/log.hpp"
#include "fold/recovering.hpp"
#include "store/contents.hpp"

namespace ramfold::daemon {

using guest::Tag;

namespace {

constexpr unsigned kBusyTriesMax = 200;  // of kNapNs: a fault owns a page for a moment
constexpr std::uint64_t kNapNs = 1'000'000;

class Search {
 public:
  Search(AttachedVm& vm, store::Contents& contents, const std::atomic<bool>& stop)
      : vm_(vm), contents_(contents), stop_(stop), vmas_(vm.vm->pid(), vm.vm->files().pidfd) {}

  // All pages whose words say `mapped`.
  Status recover_named();
  // Pages that map the pool, and whose words do not say so.
  Status find_unnamed();
  // Pages whose words are damaged: otherwise a lost one is neither counted nor told before the
  // guest touches it.
  Status settle_damaged();
  const MappingsFound& found() const noexcept { return found_; }

 private:
  Status recover(PageRun run);
  Result<bool> recover_once(PageRun run, guest::PageMask& strange);
  bool may_map_pool(const guest::Block& block, const sys::MappedRange& maps) const;

  AttachedVm& vm_;
  store::Contents& contents_;
  const std::atomic<bool>& stop_;
  const sys::VmaQuery vmas_;
  bool any_damaged_ = false;  // words
  MappingsFound found_;
};

Result<bool> Search::recover_once(PageRun run, guest::PageMask& strange) {
  fold::RecoveringRun pages(*vm_.vm, vmas_, *vm_.pool, run);
  const Status done = pages.recover();
  fold::for_each_bit(pages.left(), [&](unsigned i) {
    ++found_.left;
    const ContentId id = pages.content(i);
    if (contents_.drop(vm_.group, id) != store::Booked::done)
      vm_.vm->stop_folding(guest::Inconsistency::references);
  });
  fold::for_each_bit(pages.damaged(), [&](unsigned) { ++found_.damaged; });
  strange |= pages.strange();
  TEST_POINT("recovery.mapping");
  if (!done) return std::unexpected(done.error());
  return !pages.any_busy();
}

Status Search::recover(PageRun run) {
  guest::PageMask strange = 0;  // such a page is found again by each attempt
  for (unsigned tries = 0; tries < kBusyTriesMax; ++tries) {
    if (stop_.load(std::memory_order_relaxed)) return fail("the daemon stops", ECANCELED);
    const auto all = recover_once(run, strange);
    if (!all) return std::unexpected(all.error());
    if (*all) {
      found_.strange += static_cast<unsigned>(std::popcount(strange));
      return {};
    }
    sleep_ns(kNapNs);
  }
  return fail("pages that may map the pool are busy", EAGAIN);
}

Status Search::recover_named() {
  const guest::PageTable& table = vm_.vm->table();
  PageRun run{};
  Status status;
  const auto flush = [&] {
    if (run.count.value != 0) status = recover(run);
    run = {};
    return status.has_value();
  };
  (void)vm_.vm->each_speaking([&](PageIndex p) {
    const guest::LoadedWord word = table.load(p);
    if (!word) any_damaged_ = true;
    if (!word || word->tag() != Tag::mapped) return true;
    const bool follows = run.count.value != 0 && run.end() == p &&
                         run.count < fold::kAgentRunPages &&
                         &vm_.vm->block_of(p) == &vm_.vm->block_of(run.first);
    if (!follows) {
      if (!flush()) return false;
      run = {p, PageCount{0}};
    }
    ++run.count.value;
    return true;
  });
  if (status) (void)flush();
  return status;
}

// A pool that cannot be opened is known by no number: it may be any file.
bool Search::may_map_pool(const guest::Block& block, const sys::MappedRange& maps) const {
  const guest::RamFileId file{maps.device, maps.inode};
  if (vm_.pool->is_open()) return file == vm_.pool->file();
  const rf_block& offered =
      vm_.vm->record().block[static_cast<std::size_t>(&block - vm_.vm->blocks().data())];
  return file.inode != 0 && file != guest::RamFileId{offered.device, offered.inode};
}

Status Search::find_unnamed() {
  found_.mapped = vm_.pool->mapped().value;
  for (const guest::Block& block : vm_.vm->blocks()) {
    const std::uint64_t begin = block.address.value;
    const std::uint64_t end = begin + bytes(block.pages).value;
    for (std::uint64_t at = begin; at < end;) {
      if (stop_.load(std::memory_order_relaxed)) return fail("the daemon stops", ECANCELED);
      const auto range = vmas_.at_or_after(HostVirt{at});
      // A kernel that knows no such question lets no agent map.
      if (!range && range.error().code == ENOTTY) return {};
      if (!range) return std::unexpected(range.error());
      if (!*range) break;
      const sys::MappedRange& maps = **range;
      if (may_map_pool(block, maps)) {
        for (at = std::max(at, maps.begin); at < std::min(end, maps.end); at += kPageSize) {
          const PageIndex p{block.first.value + ((at - begin) >> kPageShift)};
          const guest::LoadedWord word = vm_.vm->table().load(p);
          if (!word || word->tag() != Tag::mapped) ++found_.unnamed;
        }
      }
      at = maps.end;
    }
  }
  return {};
}

Status Search::settle_damaged() {
  if (!any_damaged_) return {};
  Status status;
  (void)vm_.vm->each_speaking([&](PageIndex p) {
    if (vm_.vm->table().load(p)) return true;
    for (unsigned tries = 0; !vm_.faults->filler().settle_damaged(p); ++tries) {
      if (stop_.load(std::memory_order_relaxed)) {
        status = fail("the daemon stops", ECANCELED);
      } else if (tries == kBusyTriesMax) {
        status = fail("a page whose word is damaged is busy", EAGAIN);
      }
      if (!status) return false;
      sleep_ns(kNapNs);
    }
    return true;
  });
  return status;
}

}  // namespace

Status open_known_pool(AttachedVm& vm, store::Contents& contents) {
  if (vm.pool->is_open()) return {};
  auto files = contents.pool(vm.group, store::Contents::MakePool::no);
  if (files) return vm.pool->open(std::move(files->read_only));
  const int code = files.error().code;
  if (code == ENOENT || code == ENOTSUP || code == EUCLEAN) return {};  // there is none to map
  return std::unexpected(files.error());
}

Result<MappingsFound> recover_mappings(AttachedVm& vm, store::Contents& contents,
                                       const std::atomic<bool>& stop) {
  if (Status opened = open_known_pool(vm, contents); !opened)
    return std::unexpected(opened.error());
  vm.vm->set_fenced();
  Search search(vm, contents, stop);
  if (Status done = search.recover_named(); !done) return std::unexpected(done.error());
  if (Status done = search.find_unnamed(); !done) return std::unexpected(done.error());
  if (Status done = search.settle_damaged(); !done) return std::unexpected(done.error());
  const MappingsFound& found = search.found();
  if (found.damaged != 0 || !found.all_known()) {
    vm.vm->stop_folding(guest::Inconsistency::moved);
    log::error(
        "vm {}: {} pages map slots with other bytes than their words name, {} pages map neither "
        "the pool nor their RAM, {} pages map the pool and their words do not say so{}",
        vm.vm->name(), found.damaged, found.strange, found.unnamed,
        vm.pool->is_open() ? "" : "; the pool cannot be opened");
  }
  if (found.all_known()) vm.vm->set_mappings_known(true);
  TEST_POINT("recovery.mappings");
  // Events on pages whose words said `mapped` were dropped until now.
  vm.vm->wake_all();
  return found;
}

}  // namespace ramfold::daemon
