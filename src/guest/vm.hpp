// SPDX-License-Identifier: GPL-2.0-or-later
// One attached VM: its RAM files, userfaultfd, page table, gate and counters. Guest RAM is never
// mapped here (reading a hole through a mapping would make it resident); it is read with pread.
// Threads: blocks, names and descriptors are fixed after construction; everything else is atomic or
// in the page table.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "guest/fillings.hpp"
#include "guest/gate.hpp"
#include "guest/page_table.hpp"
#include "guest/vm_counters.hpp"
#include "guest/vm_record.hpp"
#include "sys/pagemap.hpp"
#include "sys/uffd.hpp"

namespace ramfold::guest {

// 4 MiB of guest RAM: the most that one call covers, the unit of registration and of scanning.
inline constexpr PageCount kChunkPages{sys::kUffdCallMax.value >> kPageShift};

struct Block {
  HostVirt address;
  PageIndex first;
  PageCount pages;
  ByteCount offset;  // into its RAM file
  std::size_t ram;   // index of its RAM file

  PageIndex end() const noexcept { return first + pages; }
};

// A finding that only damaged memory or a bug can explain. Such a VM is served as before and never
// folded again. A page that is back is the truth (T1).
enum class Inconsistency : std::uint8_t {
  none,
  transition,  // a change of a word that kTransitions does not list
  moved,       // a word changed under its owner
  references,  // a reference was given up that the store does not know
  group,       // the same for another VM of its group
  slots,       // a page that does not map the pool has a slot of it
  earlier,     // a daemon before this one found one of these
};

class Vm {
 public:
  struct Files {
    sys::Fd uffd;
    std::vector<sys::Fd> rams;  // one a block
    sys::Fd words;              // the page table's memory
    sys::Fd shared;             // with the agent
    sys::Fd record;
    sys::Fd pidfd;
  };
  // Makes a VM from checked descriptors: new ones at an attach, the keeper's after a restart.
  // Nothing here waits for the process.
  static Result<std::unique_ptr<Vm>> make(const VmRecord& record, Files files);

  VmId id() const noexcept { return VmId{record_.vm}; }
  pid_t pid() const noexcept { return record_.pid; }
  const VmRecord& record() const noexcept { return record_; }
  std::string name() const { return record_.name; }
  const Files& files() const noexcept { return files_; }

  PageTable& table() noexcept { return table_; }
  const PageTable& table() const noexcept { return table_; }
  Gate& gate() noexcept { return gate_; }
  Fillings& fillings() noexcept { return fillings_; }
  const sys::Uffd& uffd() const noexcept { return uffd_; }
  const sys::Pagemap& pagemap() const noexcept { return pagemap_; }
  VmCounters& counters() noexcept { return counters_; }

  PageCount pages() const noexcept { return table_.pages(); }
  std::span<const Block> blocks() const noexcept { return blocks_; }
  const Block& block_of(PageIndex p) const noexcept;
  HostVirt address_of(PageIndex p) const noexcept;
  std::optional<PageIndex> page_at(HostVirt address) const noexcept;
  sys::UffdRange range_of(PageRun run) const noexcept;  // REQUIRES: within one block

  // Reads the run's bytes into `to`. REQUIRES: within one block; resident and owned, or only
  // observed.
  Status read_pages(PageRun run, std::byte* to) const noexcept;
  // Call it before a page leaves. A daemon that has not got this page table must then not attach
  // the process anew.
  void note_leaving() const noexcept {
    std::atomic<std::uint32_t>& folded = table_.shared().folded;
    if (folded.load(std::memory_order_relaxed) == 0) folded.store(1, std::memory_order_seq_cst);
  }
  // All pages are back. REQUIRES: the gate is closed and drained.
  void note_all_back() const noexcept {
    table_.shared().folded.store(0, std::memory_order_seq_cst);
  }
  // Writes a page into the RAM file if that has a hole there; a page that is there is the truth
  // (T1) and stays. For an address range that does not map the RAM file any more, where UFFDIO_COPY
  // cannot work. REQUIRES: owned as `filling`.
  Status write_hole(PageIndex p, const std::byte* from) const noexcept;
  // Punches the run out of the RAM file. REQUIRES: owned as `punching`.
  Status punch_pages(PageRun run) const noexcept;
  // Registers the chunk of p, unless that was done. Any thread; twice does no harm.
  sys::UffdResult ensure_registered(PageIndex p) noexcept;
  // The chunk is registered: a touch of a hole of it is an event, and so is a write to a guarded
  // page.
  bool is_registered(std::size_t chunk) const noexcept {
    return registered_[chunk].load(std::memory_order_acquire) != 0;
  }
  // Notes for the scan that p comes back, or may be written to. Any thread.
  void stir(PageIndex p) noexcept {
    stirred_[p.value / kChunkPages.value].store(true, std::memory_order_relaxed);
  }
  // A page of the chunk was stirred since this was last asked.
  bool take_stir(std::size_t chunk) noexcept {
    return stirred_[chunk].load(std::memory_order_relaxed) &&
           stirred_[chunk].exchange(false, std::memory_order_relaxed);
  }
  // After everything is unfolded: lifts all guards and unregisters, a chunk at a time. Pages that
  // are lost stay registered: if one has lost its mark in QEMU's page table, an access to it waits
  // and does not read zeros.
  Status unregister_all() noexcept;
  // The RAM file holds p, in memory or in swap: the page is the truth (T1). Waits while somebody
  // else holds the file's lock.
  bool is_resident(PageIndex p) const noexcept;

  // PageTable::advance() and repair(). False: nothing was written, and this VM is not folded any
  // more.
  [[nodiscard]] bool advance(PageIndex p, Word seen, Word next, Owner by) noexcept;
  [[nodiscard]] bool repair(PageIndex p, DamagedWord seen, Tag to, Owner by) noexcept;
  // Any thread; the first reason stays.
  void stop_folding(Inconsistency why) noexcept;
  Inconsistency inconsistency() const noexcept {
    return inconsistency_.load(std::memory_order_acquire);
  }
  // Wakes the threads that wait for the run. A lost wake-up leaves a vCPU asleep, so a call that
  // fails is repeated.
  void wake(PageRun run) const noexcept;  // REQUIRES: within one block
  // Ends any ownership but `folding`, and wakes the threads that met the page meanwhile.
  // REQUIRES: the caller owns p.
  void release(PageIndex p) noexcept;
  // Calls f(page) for every page from `from` on whose word names a content, is `poisoned`, or is
  // damaged, until f returns false. Returns false when f did. The table is sparse and its holes are
  // skipped: reading them through the mapping would fill them.
  template <typename F>
  bool each_speaking(F f, PageIndex from = PageIndex{0}) const {
    for (std::uint64_t at = backed_from(from.value); at < pages().value; at = backed_from(at)) {
      const std::uint64_t row_end = (at / kWordsAPage + 1) * kWordsAPage;
      for (const std::uint64_t end = std::min(row_end, pages().value); at < end; ++at) {
        const LoadedWord word = table_.load(PageIndex{at});
        const bool speaks = !word || word->names_content() || word->tag() == Tag::poisoned;
        if (speaks && !f(PageIndex{at})) return false;
      }
    }
    return true;
  }
  // Pages whose words lie in one page of the table's file.
  static constexpr std::uint64_t kWordsAPage = kPageSize / sizeof(Word);
  // The first page at or after `at` whose word the table's file really holds; pages() when none is
  // left.
  std::uint64_t backed_from(std::uint64_t at) const noexcept;
  // Gives back the memory behind the words of the kWordsAPage pages from `first` on, if every one
  // is `none` or `observed`; they are `none` afterwards. True: it did. Meant for holes of the RAM
  // file: for a resident page it forgets how long the page has not changed. Any thread; a fault on
  // one of the pages waits for it. REQUIRES: first is a multiple of kWordsAPage; references are
  // counted.
  bool free_words(PageIndex first) noexcept;
  // Wakes every waiter of the VM once (recovery, L3).
  void wake_all() const noexcept;

  // For the next daemon: VmRecord::flags.
  Status note_flags(std::uint32_t set, std::uint32_t clear = 0) const {
    return guest::note_flags(files_.record, set, clear);
  }

  // The scan's pass over this VM; a folded word keeps its low bits, so that a fault can tell how
  // long the page stayed away.
  unsigned pass_now() const noexcept { return pass_.load(std::memory_order_relaxed); }
  void next_pass() noexcept { pass_.fetch_add(1, std::memory_order_relaxed); }

  // False once the process is known to be gone (ESRCH).
  bool alive() const noexcept { return alive_.load(std::memory_order_relaxed); }
  void set_gone() noexcept { alive_.store(false, std::memory_order_relaxed); }

  // Recovery has counted the reference that p's word holds. It counts page by page, and a reference
  // that is dropped before its page was counted must not be subtracted. REQUIRES: the caller owns
  // p.
  bool is_counted(PageIndex p) const noexcept {
    return p.value < counted_.load(std::memory_order_acquire);
  }
  void set_counted(PageIndex end) noexcept { counted_.store(end.value, std::memory_order_release); }
  void begin_uncounted() noexcept { counted_.store(0, std::memory_order_release); }
  // False: it is not known which pages map the pool, because commands of an earlier daemon may
  // still run, or the kernel was not asked yet. Then nothing is done to pages whose words say
  // `mapped`, and threads that wait for one of them wait on (custody/mapping_recovery.hpp).
  bool mappings_known() const noexcept { return mappings_known_.load(std::memory_order_acquire); }
  void set_mappings_known(bool known) noexcept {
    mappings_known_.store(known, std::memory_order_release);
  }
  // False: a command of an earlier daemon may still map a page, or put it back.
  bool is_fenced() const noexcept {
    return mappings_known() || fenced_.load(std::memory_order_acquire);
  }
  void set_fenced() noexcept { fenced_.store(true, std::memory_order_release); }
  // For a page whose word is damaged: its address maps the pool, so that mapping is the truth (T2),
  // and the word must stay damaged. Nothing: the VM is not fenced, or the kernel does not tell now.
  // The process can make this wait. REQUIRES: the caller owns p.
  std::optional<bool> maps_pool(PageIndex p) const noexcept;

 private:
  // Runs of lost pages, in order. Beyond kLostRunsMax runs, the last one includes the pages
  // between.
  std::vector<PageRun> lost_runs() const;
  Status unregister(PageRun run) noexcept;  // REQUIRES: within one block

  Vm(const VmRecord& record, Files files, PageTable table, std::vector<Block> blocks);

  VmRecord record_;
  Files files_;
  std::vector<Block> blocks_;
  PageTable table_;
  Gate gate_;
  Fillings fillings_;
  sys::Uffd uffd_;
  sys::Pagemap pagemap_;
  // One for each chunk of the linear page index.
  std::vector<std::atomic<std::uint8_t>> registered_;
  std::vector<std::atomic<bool>> stirred_;
  VmCounters counters_;
  std::atomic<bool> alive_{true};
  std::atomic<Inconsistency> inconsistency_{Inconsistency::none};
  std::atomic<unsigned> pass_{0};
  std::atomic<std::uint64_t> counted_;
  std::atomic<bool> mappings_known_{true};
  std::atomic<bool> fenced_{false};
};

}  // namespace ramfold::guest
