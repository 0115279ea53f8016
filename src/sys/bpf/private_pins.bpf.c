// SPDX-License-Identifier: GPL-2.0-or-later
// Does anything hold the private copy of a page besides one page table? Programs of the type
// "syscall", which the daemon runs. See sys/private_pins.hpp.
//
// A private copy is in no file, so the way to its frame is the process's page table. The kernel's
// rule for moving such a page is: its references are 1 for each page table entry, and 1 if it is in
// the swap cache (folio_expected_ref_count() in include/linux/mm.h). See tests/model/copy.pml.
//
// x86-64 alone. A page table is named by its physical address; the kernel maps all physical memory
// somewhere (the direct map), and has one struct page for each frame in an array. Where both begin
// is found by find_kernel() from addresses that are known, and the kernel's own page table confirms
// it.
#include "sys/bpf/kernel.bpf.h"

#include "sys/bpf/pin_test_request.h"
#include "sys/bpf/private_pins_request.h"

struct mm_struct {
  void *pgd;
  int map_count;
} KERNEL;
struct page {
  unsigned long compound_head;
} KERNEL;

char LICENSE[] SEC("license") = "GPL";

// Entries of page tables (arch/x86/include/asm/pgtable_types.h).
#define ENTRY_PRESENT 1ul
#define ENTRY_LEAF 0x80ul        // of an upper level: it maps a large page
#define ENTRY_NO_ACCESS 0x100ul  // not present, but it names a page
#define ENTRY_ADDRESS 0x000ffffffffff000ul
#define GIB (1ul << 30)

static __always_inline __u64 entry_at(__u64 table, __u64 address, int shift) {
  return word_at(table + 8 * ((address >> shift) & 511));
}

struct walked {
  __u64 entry;
  __u32 shift;  // of the level at which the walk ended: 12 is a page
};

// The entry for the address in the page table at `top`. Where an upper level has no table, that
// level's entry.
static __always_inline struct walked walk(__u64 direct_map, int levels, __u64 top, __u64 address) {
  struct walked at = {0, 48};
  __u64 table = top;
  if (levels == 5) {
    at.entry = entry_at(table, address, 48);
    if (!(at.entry & ENTRY_PRESENT)) return at;
    table = direct_map + (at.entry & ENTRY_ADDRESS);
  }
  for (at.shift = 39; at.shift > 12; at.shift -= 9) {
    at.entry = entry_at(table, address, at.shift);
    if (!(at.entry & ENTRY_PRESENT) || (at.shift < 39 && at.entry & ENTRY_LEAF)) return at;
    table = direct_map + (at.entry & ENTRY_ADDRESS);
  }
  at.entry = entry_at(table, address, 12);
  return at;
}

static __always_inline __u64 mm_of(__u32 pagemap) {
  const __u64 file = file_of(pagemap);
  return file ? WORD(file, file, private_data) : 0;
}

// ---- where the kernel keeps things ----

// The direct map begins at a whole GiB. It is searched upwards, so every place that is looked at is
// in the direct map, or below it, where nothing is mapped.
#define SEARCHED_MAX 16384

struct search {
  __u64 top;  // a page table, by its address in the direct map
  __u64 first;
  __u64 found;
  int levels;
};

static long is_direct_map(__u32 i, struct search *search) {
  const __u64 base = search->first + i * GIB;
  if (base > search->top) return 1;
  const struct walked at = walk(base, search->levels, search->top, search->top);
  if (!(at.entry & ENTRY_PRESENT)) return 0;
  const __u64 within = (1ul << at.shift) - 1;
  const __u64 physical = (at.entry & ENTRY_ADDRESS & ~within) | (search->top & within);
  if (base + physical != search->top) return 0;
  search->found = base;
  return 1;
}

SEC("syscall")
int find_kernel(struct rf_find_request *request) {
  struct search search = {};
  __u64 folio = 0;
  __u64 frame = 0;
  bpf_rcu_read_lock();
  const __u64 mm = mm_of(request->pagemap);
  const __u64 file = file_of(request->file);
  if (mm && file) {
    search.top = WORD(mm_struct, mm, pgd);
    // A file of one page: the tree is that page's folio.
    folio =
        word_at(WORD(file, file, f_mapping) + bpf_core_field_offset(struct address_space, i_pages) +
                bpf_core_field_offset(struct xarray, xa_head));
    search.levels = search.top < 0xffff800000000000ul ? 5 : 4;
    const __u64 least = search.levels == 5 ? 0xff11000000000000ul : 0xffff888000000000ul;
    const __u64 reach = (SEARCHED_MAX - 1) * GIB;
    search.first = search.top & ~(GIB - 1);
    search.first = search.first - least > reach ? search.first - reach : least;
    if (search.top > least) bpf_loop(SEARCHED_MAX, is_direct_map, &search, 0);
    if (search.found) {
      const struct walked at = walk(search.found, search.levels, search.top, request->address);
      if (at.shift == 12 && at.entry & ENTRY_PRESENT) frame = (at.entry & ENTRY_ADDRESS) >> 12;
    }
  }
  bpf_rcu_read_unlock();
  if (!frame || !folio || folio & 3) return 0;
  const __u64 frames = folio - frame * bpf_core_type_size(struct page);
  if (frames % GIB) return 0;
  request->found.direct_map = search.found;
  request->found.frames = frames;
  request->found.levels = search.levels;
  return 1;
}

// ---- who holds a private copy ----

struct run {
  __u64 mm;
  __u64 top;
  __u64 address;
  struct rf_kernel_places kernel;
  __u8 answers[RF_PRIVATE_PAGES_MAX];
};

// The place of a frame in the swap cache; 0: it is in none. The cache's reference is there before
// the frame has a place, and goes after the place (mm/swap_state.c).
static __always_inline __u64 swap_place_of(__u64 folio, __u64 flags) {
  if (!HAS_FLAG(flags, PG_swapcache)) return 0;
  return WORD(folio, folio, private);
}

// Of a frame of a large folio. Whoever has a file may make the file's folios large
// (MADV_COLLAPSE), but that makes no copy of a page.
static __always_inline __u8 answer_of_large(__u64 frame) {
  const __u64 link = WORD(page, frame, compound_head);
  const __u64 mapping = WORD(folio, link & 1 ? link - 1 : frame, mapping);
  if (WORD(page, frame, compound_head) != link || !mapping) return RF_PIN_AGAIN;  // it is split
  return mapping & 3 ? RF_PIN_LARGE : RF_PIN_HOLE;
}

// Of a frame that a page table entry names. HOLE: it is a page of a file, and no copy.
static __always_inline __u8 answer_of(__u64 folio) {
  const __u64 flags = flags_of(folio);
  const __u64 place = swap_place_of(folio, flags);
  const __u64 mapping = WORD(folio, folio, mapping);
  const __u64 counts = counts_of(folio);
  const int maps = (int)(__u32)counts + 1;
  const int references = (int)(counts >> 32);
  // One place before and after the counts: the swap cache held its reference between. Otherwise
  // another holder's could pass for it.
  if (swap_place_of(folio, flags_of(folio)) != place) return RF_PIN_AGAIN;
  if (HAS_FLAG(flags, PG_head) || WORD(page, folio, compound_head) & 1)
    return answer_of_large(folio);
  if (!mapping) return RF_PIN_AGAIN;
  if (!(mapping & 3)) return RF_PIN_HOLE;
  if ((mapping & 3) != 1) return RF_PIN_BUSY;  // not an anonymous page of the plain kind
  if (!COUNTS_ARE_A_WORD) return RF_PIN_AGAIN;
  if (maps != 1) return maps > 1 ? RF_PIN_MAPPED_MORE : RF_PIN_AGAIN;
  return references == maps + (place != 0) ? RF_PIN_QUIET : RF_PIN_BUSY;
}

static long answer_page(__u32 i, struct run *run) {
  const __u64 address = run->address + i * 4096ul;
  const int levels = run->kernel.levels == 5 ? 5 : 4;
  const struct walked at = walk(run->kernel.direct_map, levels, run->top, address);
  __u8 answer = RF_PIN_AGAIN;
  if (at.entry == 0) {
    answer = RF_PIN_HOLE;
  } else if (!(at.entry & ENTRY_PRESENT)) {
    // In swap, or the mark of a guard.
    if (at.shift == 12 && !(at.entry & ENTRY_NO_ACCESS)) answer = RF_PIN_SWAPPED;
  } else if (at.shift != 12) {
    answer = RF_PIN_LARGE;
  } else {
    answer = answer_of(run->kernel.frames +
                       ((at.entry & ENTRY_ADDRESS) >> 12) * bpf_core_type_size(struct page));
  }
  // The frame was this page's all the time.
  const struct walked again = walk(run->kernel.direct_map, levels, run->top, address);
  if (again.entry != at.entry || again.shift != at.shift) answer = RF_PIN_AGAIN;
  run->answers[i % RF_PRIVATE_PAGES_MAX] = answer;
  return 0;
}

// Returns how many pages were answered; 0: no such process.
SEC("syscall")
int private_pins(struct rf_private_request *request) {
  const __u32 pages = request->pages;
  if (pages > RF_PRIVATE_PAGES_MAX) return 0;
  struct run run = {.address = request->address};
  run.kernel.direct_map = request->kernel.direct_map;
  run.kernel.frames = request->kernel.frames;
  run.kernel.levels = request->kernel.levels;
  __u64 mappings = 0;
  bpf_rcu_read_lock();
  run.mm = mm_of(request->pagemap);
  if (run.mm) {
    run.top = WORD(mm_struct, run.mm, pgd);
    mappings = READ(AS(mm_struct, run.mm)->map_count);
    bpf_loop(pages, answer_page, &run, 0);
  }
  bpf_rcu_read_unlock();
  if (!run.mm) return 0;
  request->mappings = mappings;
  const __u64 *answers = (const __u64 *)run.answers;
  for (int i = 0; i < RF_PRIVATE_PAGES_MAX / 8; i++) request->answers[i] = answers[i];
  return pages;
}
