// SPDX-License-Identifier: GPL-2.0-or-later
#include "guest/vm.hpp"

#include <fcntl.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "base/check.hpp"
#include "base/clock.hpp"
#include "sys/hole.hpp"
#include "sys/vma_query.hpp"

namespace ramfold::guest {
namespace {

constexpr unsigned kTriesMax = 200;  // tries of a call that must succeed
constexpr unsigned kUnregisterTriesMax = 3;
// Each run splits a mapping of the VM's, and a process may have 65,530 mappings.
constexpr std::size_t kLostRunsMax = 1024;
constexpr std::uint64_t kNapNs = 1'000'000;  // between two tries
constexpr std::uint64_t kDrainNapNs = 50'000;

// Repeats a call until it succeeds or the VM is gone, `tries_max` times at most.
template <typename Call>
sys::UffdResult insist(unsigned tries_max, Call call) noexcept {
  sys::UffdResult result = call();
  for (unsigned i = 1; i < tries_max; ++i) {
    if (result.outcome == sys::Outcome::done || result.outcome == sys::Outcome::vm_gone) break;
    sleep_ns(kNapNs);
    result = call();
  }
  return result;
}

}  // namespace

void Gate::drain() const noexcept {
  while (runs_.load(std::memory_order_seq_cst) != 0) sleep_ns(kDrainNapNs);
}

Result<std::unique_ptr<Vm>> Vm::make(const VmRecord& record, Files files) {
  if (record.blocks == 0 || record.blocks != files.rams.size()) {
    return fail("a VM needs one RAM file a block");
  }
  std::vector<Block> blocks;
  PageIndex next{0};
  for (std::size_t i = 0; i < record.blocks; ++i) {
    const rf_block& b = record.block[i];
    blocks.push_back(
        {HostVirt{b.address}, next, PageCount{b.size >> kPageShift}, ByteCount{b.offset}, i});
    next = blocks.back().end();
  }
  auto table = PageTable::open(files.words, files.shared, PageCount{next.value}, word_seed(record));
  if (!table) return std::unexpected(table.error());
  return std::unique_ptr<Vm>(
      new Vm(record, std::move(files), std::move(*table), std::move(blocks)));
}

Vm::Vm(const VmRecord& record, Files files, PageTable table, std::vector<Block> blocks)
    : record_(record),
      files_(std::move(files)),
      blocks_(std::move(blocks)),
      table_(std::move(table)),
      gate_(table_.shared()),
      fillings_(table_.shared()),
      uffd_(files_.uffd),
      pagemap_(record.pid, files_.pidfd),
      // A chunk of the index may hold pages of two blocks; each block's part is registered with it.
      registered_(table_.pages().value / kChunkPages.value + 1),
      stirred_(registered_.size()),
      counted_(table_.pages().value) {}

const Block& Vm::block_of(PageIndex p) const noexcept {
  // At most RF_BLOCKS_MAX, nearly always one.
  for (const Block& b : blocks_) {
    if (p < b.end()) return b;
  }
  ENSURE(!"page within the VM");
  return blocks_.back();
}

HostVirt Vm::address_of(PageIndex p) const noexcept {
  const Block& b = block_of(p);
  return HostVirt{b.address.value + ((p.value - b.first.value) << kPageShift)};
}

std::optional<PageIndex> Vm::page_at(HostVirt address) const noexcept {
  for (const Block& b : blocks_) {
    const std::uint64_t size = bytes(b.pages).value;
    if (address.value >= b.address.value && address.value - b.address.value < size) {
      return PageIndex{b.first.value + ((address.value - b.address.value) >> kPageShift)};
    }
  }
  return std::nullopt;
}

sys::UffdRange Vm::range_of(PageRun run) const noexcept {
  DENSURE(run.end() <= block_of(run.first).end());
  return {address_of(run.first), bytes(run.count)};
}

Status Vm::read_pages(PageRun run, std::byte* to) const noexcept {
  const Block& b = block_of(run.first);
  const std::uint64_t offset = b.offset.value + ((run.first.value - b.first.value) << kPageShift);
  const std::uint64_t size = bytes(run.count).value;
  if (const int error = sys::injected(sys::Call::pread); error != 0)
    return fail("pread guest RAM", error);
  for (std::uint64_t done = 0; done < size;) {
    const ssize_t n = ::pread(files_.rams[b.ram].get(), to + done, size - done,
                              static_cast<off_t>(offset + done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail_errno("pread guest RAM");
    if (n == 0) return fail("pread guest RAM: the RAM file is shorter than the VM said");
    done += static_cast<std::uint64_t>(n);
  }
  return {};
}

Status Vm::write_hole(PageIndex p, const std::byte* from) const noexcept {
  const Block& b = block_of(p);
  const auto offset =
      static_cast<off_t>(b.offset.value + ((p.value - b.first.value) << kPageShift));
  const int ram = files_.rams[b.ram].get();
  const off_t data = ::lseek(ram, offset, SEEK_DATA);
  if (data < 0 && errno != ENXIO) return fail_errno("lseek guest RAM");
  if (data == offset) return {};
  return sys::fill_hole(sys::BorrowedFd(ram), ByteCount{static_cast<std::uint64_t>(offset)}, from);
}

Status Vm::punch_pages(PageRun run) const noexcept {
  const Block& b = block_of(run.first);
  const std::uint64_t offset = b.offset.value + ((run.first.value - b.first.value) << kPageShift);
  if (const int error = sys::injected(sys::Call::punch); error != 0)
    return fail("punch guest RAM", error);
  return sys::punch(files_.rams[b.ram], ByteCount{offset}, bytes(run.count));
}

sys::UffdResult Vm::ensure_registered(PageIndex p) noexcept {
  const std::size_t chunk = p.value / kChunkPages.value;
  if (registered_[chunk].load(std::memory_order_acquire) != 0) return {};
  const PageIndex first{chunk * kChunkPages.value};
  const PageIndex end{std::min(first.value + kChunkPages.value, pages().value)};
  for (const Block& b : blocks_) {
    const PageIndex from = std::max(first, b.first);
    const PageIndex to = std::min(end, b.end());
    if (from >= to) continue;
    const auto result = uffd_.register_range(range_of({from, PageCount{to.value - from.value}}));
    if (result.outcome != sys::Outcome::done) return result;
  }
  registered_[chunk].store(1, std::memory_order_release);
  return {};
}

Status Vm::unregister(PageRun run) noexcept {
  const sys::UffdRange range = range_of(run);
  // Nobody answers faults afterwards, so this must succeed. For a range that was mapped over, every
  // call fails with ENOENT or EINVAL; a few tries tell that from a passing error.
  const auto lifted =
      insist(kUnregisterTriesMax, [&] { return uffd_.lift(range, sys::Wake::yes); });
  if (lifted.outcome == sys::Outcome::vm_gone) return {};
  const auto gone = insist(kUnregisterTriesMax, [&] { return uffd_.unregister_range(range); });
  if (gone.outcome == sys::Outcome::vm_gone) return {};
  if (lifted.outcome != sys::Outcome::done && lifted.outcome != sys::Outcome::range_gone) {
    return fail("lift guards", lifted.code);
  }
  if (gone.outcome != sys::Outcome::done && gone.outcome != sys::Outcome::range_gone) {
    return fail("UFFDIO_UNREGISTER", gone.code);
  }
  counters_.unregistered_chunks.add();
  return {};
}

Status Vm::unregister_all() noexcept {
  const std::vector<PageRun> lost = lost_runs();
  auto next_lost = lost.begin();
  for (const Block& b : blocks_) {
    for (PageIndex from = b.first; from < b.end() && alive();) {
      while (next_lost != lost.end() && next_lost->end() <= from) ++next_lost;
      PageIndex to{std::min(from.value + kChunkPages.value, b.end().value)};
      if (next_lost != lost.end() && next_lost->first <= from) {
        from = std::min(next_lost->end(), b.end());
        continue;
      }
      if (next_lost != lost.end()) to = std::min(to, next_lost->first);
      if (Status gone = unregister({from, PageCount{to.value - from.value}}); !gone) return gone;
      from = to;
    }
  }
  for (auto& r : registered_) r.store(0, std::memory_order_release);
  // From now on no event tells of a page that comes.
  for (auto& s : stirred_) s.store(true, std::memory_order_relaxed);
  return {};
}

std::vector<PageRun> Vm::lost_runs() const {
  std::vector<PageRun> runs;
  (void)each_speaking([&](PageIndex p) {
    const LoadedWord word = table_.load(p);
    if (word && word->tag() != Tag::poisoned) return true;
    if (!runs.empty() && (runs.back().end() == p || runs.size() == kLostRunsMax)) {
      runs.back().count = PageCount{p.value + 1 - runs.back().first.value};
    } else {
      runs.push_back({p, PageCount{1}});
    }
    return true;
  });
  return runs;
}

bool Vm::is_resident(PageIndex p) const noexcept {
  const Block& b = block_of(p);
  const auto offset =
      static_cast<off_t>(b.offset.value + ((p.value - b.first.value) << kPageShift));
  return ::lseek(files_.rams[b.ram].get(), offset, SEEK_DATA) == offset;
}

std::optional<bool> Vm::maps_pool(PageIndex p) const noexcept {
  if (!is_fenced()) return std::nullopt;
  const sys::VmaQuery vmas(pid(), files_.pidfd);
  const auto range = vmas.at(address_of(p));
  // RAM is mapped shared, and the pool is not.
  if (range) return *range && (*range)->inode != 0 && !(*range)->shared;
  // A kernel that knows no such question lets no agent map; a process that has ended maps nothing.
  const int code = range.error().code;
  if (code == ENOTTY || code == ESRCH) return false;
  return std::nullopt;
}

bool Vm::advance(PageIndex p, Word seen, Word next, Owner by) noexcept {
  const Advanced done = table_.advance(p, seen, next, by);
  if (done == Advanced::illegal) stop_folding(Inconsistency::transition);
  if (done == Advanced::moved) stop_folding(Inconsistency::moved);
  return done == Advanced::done;
}

bool Vm::repair(PageIndex p, DamagedWord seen, Tag to, Owner by) noexcept {
  const Advanced done = table_.repair(p, seen, to, by);
  if (done != Advanced::done) {
    stop_folding(done == Advanced::illegal ? Inconsistency::transition : Inconsistency::moved);
    return false;
  }
  counters_.damaged_words.add();
  if (to == Tag::poisoned && is_counted(p)) counters_.poisoned.add();
  return true;
}

void Vm::stop_folding(Inconsistency why) noexcept {
  auto none = Inconsistency::none;
  (void)inconsistency_.compare_exchange_strong(none, why, std::memory_order_acq_rel);
  gate_.lock();
}

void Vm::wake(PageRun run) const noexcept {
  (void)insist(kTriesMax, [&] { return uffd_.wake(range_of(run)); });
}

void Vm::release(PageIndex p) noexcept {
  if (table_.release(p) == Released::contended) wake({p, PageCount{1}});
}

std::uint64_t Vm::backed_from(std::uint64_t at) const noexcept {
  if (at >= pages().value) return pages().value;
  const off_t data = ::lseek(files_.words.get(), static_cast<off_t>(at * sizeof(Word)), SEEK_DATA);
  if (data < 0) return pages().value;
  return std::max(at, static_cast<std::uint64_t>(data) / sizeof(Word));
}

void Vm::wake_all() const noexcept {
  for (const Block& b : blocks_) {
    for (PageIndex from = b.first; from < b.end();) {
      const PageIndex to{std::min(from.value + kChunkPages.value, b.end().value)};
      wake({from, PageCount{to.value - from.value}});
      from = to;
    }
  }
}

}  // namespace ramfold::guest
