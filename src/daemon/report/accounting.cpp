// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/report/accounting.hpp"

#include <unistd.h>
#include <algorithm>

#include "store/contents.hpp"
#include "store/stats.hpp"

namespace ramfold::daemon {

using control::Mechanism;

namespace {

ByteCount operator+(ByteCount a, ByteCount b) noexcept { return ByteCount{a.value + b.value}; }

// Counts the kernel's page tables for the daemon's own mappings only. Tables of the guests (8 bytes
// per page) are not counted: the guest needs most of them without folding too.
ByteCount own_page_tables(const sys::Procfs& procfs) {
  const auto status = procfs.status(::getpid());
  return status ? status->page_tables : ByteCount{0};
}

// A mapping of a process takes so much memory of the kernel's: vm_area_struct and its place in the
// tree.
constexpr std::uint64_t kBytesAMapping = 230;

// Anonymous memory of a process: shared mappings are counted by their files.
ByteCount private_memory(const sys::Procfs& procfs, pid_t pid) {
  const auto status = procfs.status(pid);
  return status ? status->anonymous : ByteCount{0};
}

}  // namespace

ByteCount needed_if_all_back(const std::vector<VmHandle>& vms, const store::Stats& stats) noexcept {
  std::uint64_t pages = 0;
  for (const VmHandle& vm : vms) {
    const guest::VmCounters& c = vm->vm->counters();
    pages += c.folded_content.get() + c.folded_zero.get() + vm->mapped().value;
  }
  const std::uint64_t needed = pages << kPageShift;
  return ByteCount{needed - std::min(needed, stats.arena_in_slots.value + stats.pool_stored.value)};
}

Account host_account(const std::vector<VmHandle>& vms, const store::Contents& contents,
                     const sys::Procfs& procfs, pid_t keeper) {
  Account account;
  account.store = contents.stats();
  const store::Stats& stats = account.store;
  std::uint64_t folded_content = 0;
  for (const VmHandle& vm : vms) {
    const guest::VmCounters& c = vm->vm->counters();
    account.saved.zero.pages.value += c.folded_zero.get();
    folded_content += c.folded_content.get() + vm->mapped().value;
    if (vm->mapped().value != 0)
      account.spent.kernel_mappings.value += vm->mapping.ranges * kBytesAMapping;
    account.spent.page_tables = account.spent.page_tables + backed(vm->vm->files().words);
    account.spent.discard_bitmaps = account.spent.discard_bitmaps + backed(vm->vm->files().shared);
  }
  for (const store::FormStats& form : stats.forms) account.contents += form.contents;
  // If n pages name one content, n - 1 pages are shared and 1 is compressed. A content that only
  // clean pages name has no folded page; these are few and counted like the others.
  const std::uint64_t standing = std::min(folded_content, account.contents);
  account.saved.shared.pages = PageCount{folded_content - standing};
  account.saved.compressed.pages = PageCount{standing};
  account.saved.zero.saved = bytes(account.saved.zero.pages);
  account.saved.shared.saved = bytes(account.saved.shared.pages);
  const ByteCount stored = stats.arena_stored + stats.pool_stored;
  const std::uint64_t whole = bytes(account.saved.compressed.pages).value;
  account.saved.compressed.saved = ByteCount{whole - std::min(whole, stored.value)};
  account.spent.arena_used = stored;
  account.spent.arena_allocated = backed(contents.files().arena) + stats.pool_allocated;
  account.spent.content_headers = backed(contents.files().contents) +
                                  backed(contents.files().groups) + stats.note_bytes +
                                  stats.slab_map_bytes;
  account.spent.index = stats.index_bytes + stats.similarity_bytes;
  account.spent.kernel_page_tables = own_page_tables(procfs);
  // Volatile arrays of the store are part of the daemon's anonymous memory: subtracted, so that
  // they count once.
  const ByteCount anonymous = private_memory(procfs, ::getpid());
  const std::uint64_t counted =
      stats.note_bytes.value + stats.slab_map_bytes.value + account.spent.index.value;
  account.spent.processes = ByteCount{anonymous.value - std::min(anonymous.value, counted)} +
                            (keeper > 0 ? private_memory(procfs, keeper) : ByteCount{0});
  const std::uint64_t blobs_beyond = stored.value - std::min(stored.value, whole);
  account.saved.net_bytes =
      static_cast<std::int64_t>(account.saved.gross().value) -
      static_cast<std::int64_t>(account.spent.overhead().value + blobs_beyond);
  return account;
}

control::Savings vm_savings(const AttachedVm& vm, const Account& host,
                            const std::vector<VmHandle>& vms) {
  const guest::VmCounters& c = vm.vm->counters();
  control::Savings saved;
  saved.zero = {PageCount{c.folded_zero.get()}, bytes(PageCount{c.folded_zero.get()})};
  const std::uint64_t mine = c.folded_content.get() + vm.mapped().value;
  const std::uint64_t all = host.saved.shared.pages.value + host.saved.compressed.pages.value;
  const double part = all == 0 ? 0 : static_cast<double>(mine) / static_cast<double>(all);
  const auto share = [part](Mechanism m) {
    return Mechanism{
        PageCount{static_cast<std::uint64_t>(static_cast<double>(m.pages.value) * part)},
        ByteCount{static_cast<std::uint64_t>(static_cast<double>(m.saved.value) * part)}};
  };
  saved.compressed = share(host.saved.compressed);
  saved.shared = share(host.saved.shared);
  const std::uint64_t tables =
      backed(vm.vm->files().words).value + backed(vm.vm->files().shared).value;
  const std::uint64_t host_tables = host.spent.page_tables.value + host.spent.discard_bitmaps.value;
  const std::uint64_t rest =
      host.spent.overhead().value - std::min(host.spent.overhead().value, host_tables);
  const double weight =
      all == 0 ? 1.0 / static_cast<double>(std::max<std::size_t>(1, vms.size())) : part;
  saved.net_bytes = static_cast<std::int64_t>(saved.gross().value) -
                    static_cast<std::int64_t>(tables) -
                    static_cast<std::int64_t>(static_cast<double>(rest) * weight);
  return saved;
}

}  // namespace ramfold::daemon
