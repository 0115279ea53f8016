// SPDX-License-Identifier: GPL-2.0-or-later
// Does anything hold a page of a file besides the page cache and one page table? A program of the
// type "syscall", which the daemon runs for its own descriptor of a RAM file. See sys/pin_test.hpp.
//
// A small folio's reference count is 1 for the page cache, 1 for each page table entry, and 1 or
// more for each other holder: a device write in flight, a registered buffer, a pipe, a CPU's batch
// of new pages. The kernel moves a page by the same rule (folio_expected_ref_count() in
// include/linux/mm.h).
#include "sys/bpf/kernel.bpf.h"
#include "sys/bpf/pin_test_request.h"

struct xa_node {
  unsigned char shift;
  void *slots[64];
} KERNEL;

char LICENSE[] SEC("license") = "GPL";

// The entries of the page cache's tree (include/linux/xarray.h):
//
//   low bits 00   0: a hole; else the address of a folio
//   low bits 01   the place in swap
//   low bits 10   up to 4096: a sibling of a large folio's entry, or "walk again"; above: the
//                 address of a node
#define ENTRIES_BITS 6
#define ENTRIES (1 << ENTRIES_BITS)
#define LEVELS_MAX 11

static __always_inline int is_folio(__u64 entry) { return entry != 0 && (entry & 3) == 0; }
static __always_inline int is_node(__u64 entry) { return (entry & 3) == 2 && entry > 4096; }
static __always_inline int is_sibling(__u64 entry) {
  return (entry & 3) == 2 && entry < (ENTRIES << 2);
}

// REQUIRES: not is_folio(entry).
static __always_inline __u8 answer_without_folio(__u64 entry) {
  if (entry == 0) return RF_PIN_HOLE;
  if ((entry & 3) != 2) return RF_PIN_SWAPPED;
  return is_sibling(entry) ? RF_PIN_LARGE : RF_PIN_AGAIN;
}

// Where the entries of 64 neighbouring pages lie.
struct block {
  __u64 entries;  // address of the first one
  __u32 count;    // of the first pages of the block that have an entry; 0, 1 or 64
  __u8 answer;    // for the others
};

static __always_inline void find_block(struct address_space *mapping, __u64 index,
                                       struct block *block) {
  const __u64 head = (__u64)mapping + bpf_core_field_offset(struct address_space, i_pages) +
                     bpf_core_field_offset(struct xarray, xa_head);
  __u64 entry = word_at(head);
  block->entries = head;
  block->count = 0;
  block->answer = RF_PIN_HOLE;
  if (!is_node(entry)) {  // a tree of one entry, for page 0
    if (index < ENTRIES) block->count = 1;
    return;
  }
  for (int level = 0; level < LEVELS_MAX; level++) {
    const __u64 node = entry - 2;
    const unsigned int shift = READ(AS(xa_node, node)->shift);
    if (shift > 63) break;
    if (level == 0 && shift + ENTRIES_BITS < 64 && index >> (shift + ENTRIES_BITS)) return;
    const __u64 entries = node + bpf_core_field_offset(struct xa_node, slots);
    if (shift == 0) {
      block->entries = entries;
      block->count = ENTRIES;
      return;
    }
    entry = word_at(entries + 8 * ((index >> shift) % ENTRIES));
    if (!is_node(entry)) {
      block->answer = is_folio(entry) ? RF_PIN_LARGE : answer_without_folio(entry);
      return;
    }
  }
  block->answer = RF_PIN_AGAIN;
}

static __always_inline __u8 answer_at(struct address_space *mapping, __u64 index, __u64 slot) {
  const __u64 entry = word_at(slot);
  if (!is_folio(entry)) return answer_without_folio(entry);
  struct folio *folio = AS(folio, entry);
  const __u64 counts = counts_of(entry);
  const int maps = (int)(__u32)counts + 1;
  const int references = (int)(counts >> 32);
  if (READ(folio->mapping) != mapping) return RF_PIN_AGAIN;  // it has just left the file
  if (HAS_FLAG(flags_of(entry), PG_head)) return RF_PIN_LARGE;
  if (READ(folio->index) != index) return RF_PIN_AGAIN;
  if (!COUNTS_ARE_A_WORD) return RF_PIN_AGAIN;
  if (maps > 1) return RF_PIN_MAPPED_MORE;
  if (references != 1 + maps) return RF_PIN_BUSY;
  // The counts were those of this page's frame all the time.
  return word_at(slot) == entry ? RF_PIN_QUIET : RF_PIN_AGAIN;
}

struct run {
  struct address_space *mapping;
  __u64 first;
  __u64 found;  // the block that was found, counted from 1
  struct block block;
  __u8 answers[RF_PIN_PAGES_MAX];
};

static long answer_page(__u32 i, struct run *run) {
  const __u64 index = run->first + i;
  const __u64 number = index / ENTRIES + 1;
  if (run->found != number) {
    find_block(run->mapping, index, &run->block);
    run->found = number;
  }
  const __u64 in_block = index % ENTRIES;
  run->answers[i % RF_PIN_PAGES_MAX] =
      in_block < run->block.count
          ? answer_at(run->mapping, index, run->block.entries + 8 * in_block)
          : run->block.answer;
  return 0;
}

// Returns how many pages were answered; 0: no such file.
SEC("syscall")
int pin_test(struct rf_pin_request *request) {
  const __u32 pages = request->pages;
  if (pages > RF_PIN_PAGES_MAX) return 0;
  struct run run = {.first = request->first};
  bpf_rcu_read_lock();
  const __u64 file = file_of(request->fd);
  if (file) run.mapping = READ(AS(file, file)->f_mapping);
  if (run.mapping) bpf_loop(pages, answer_page, &run, 0);
  bpf_rcu_read_unlock();
  if (!run.mapping) return 0;
  const __u64 *answers = (const __u64 *)run.answers;
  for (int i = 0; i < RF_PIN_PAGES_MAX / 8; i++) request->answers[i] = answers[i];
  return pages;
}
