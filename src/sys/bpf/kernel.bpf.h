// SPDX-License-Identifier: GPL-2.0-or-later
// What the programs that look at frames share: the kernel's structs, and how they are read.
//
// The structs name only the fields that are read. libbpf puts in the offsets of the running kernel
// (CO-RE); where a field is not there, the program does not load. All reads are of pointers that
// the verifier does not trust: a bad address reads as 0.
#pragma once

#include <linux/bpf.h>

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

#define KERNEL __attribute__((preserve_access_index))

typedef struct {
  int counter;
} atomic_t;

struct xarray {
  void *xa_head;
} KERNEL;
struct address_space {
  struct xarray i_pages;
} KERNEL;
struct file {
  struct address_space *f_mapping;
  void *private_data;
} KERNEL;
struct fdtable {
  unsigned int max_fds;
  struct file **fd;
} KERNEL;
struct files_struct {
  struct fdtable *fdt;
} KERNEL;
struct task_struct {
  struct files_struct *files;
} KERNEL;
struct folio {
  struct address_space *mapping;
  unsigned long index;
  void *private;       // the place in swap, while the frame is in the swap cache
  atomic_t _mapcount;  // page table entries, less 1
  atomic_t _refcount;
} KERNEL;
// The flags are a word, since Linux 6.18 in a struct.
struct folio___word {
  unsigned long flags;
} KERNEL;
struct folio___struct {
  struct {
    unsigned long f;
  } flags;
} KERNEL;
// The places of the flags differ between versions.
enum pageflags { PG_head = 6, PG_swapcache = 10 };

extern void bpf_rcu_read_lock(void) __ksym;
extern void bpf_rcu_read_unlock(void) __ksym;
extern void *bpf_rdonly_cast(void *obj, __u32 btf_id) __ksym;

#define AS(type, address) \
  ((struct type *)bpf_rdonly_cast((void *)(address), bpf_core_type_id_kernel(struct type)))
// Reads in the order of the program. x86 keeps the order of loads; a port to another architecture
// needs a barrier here.
#define READ(place) (*(volatile typeof(place) *)&(place))

// The word at any kernel address. Only casts to structs are allowed, so the word is read as a field
// of one; the verifier takes it for a number, which a field with a pointer would not be.
static __always_inline __u64 word_at(__u64 address) {
  const __u64 start = address - bpf_core_field_offset(struct folio, index);
  return READ(AS(folio, start)->index);
}

// A field of a struct at any kernel address, as a number.
#define WORD(type, address, field) \
  word_at((__u64)(address) + bpf_core_field_offset(struct type, field))

static __always_inline __u64 flags_of(__u64 folio) {
  if (bpf_core_field_exists(struct folio___struct, flags.f)) {
    return word_at(folio + bpf_core_field_offset(struct folio___struct, flags));
  }
  return word_at(folio + bpf_core_field_offset(struct folio___word, flags));
}
#define HAS_FLAG(flags, name) (((flags) >> bpf_core_enum_value(enum pageflags, name)) & 1)

// Both counts at one moment: they are the halves of one aligned word, and one load reads it. Of two
// loads one could see the page mapped and the other not, so that a holder passes for a page table
// entry. Three loads (mappings, references, mappings) do not exclude it: tests/model/pins.pml.
// A new page table entry counts as a reference first, then as a mapping; one that goes, in the
// opposite order. In between the page looks held.
#define COUNTS_ARE_A_WORD                                     \
  (bpf_core_field_offset(struct folio, _mapcount) % 8 == 0 && \
   bpf_core_field_offset(struct folio, _refcount) ==          \
       bpf_core_field_offset(struct folio, _mapcount) + 4)
static __always_inline __u64 counts_of(__u64 folio) {
  return word_at(folio + bpf_core_field_offset(struct folio, _mapcount));
}

// The file of a descriptor of the process that asks; 0: there is none. REQUIRES: an RCU read
// section. The file stays, because its descriptor belongs to who asks.
static __always_inline __u64 file_of(__u32 fd) {
  struct task_struct *task = (void *)bpf_get_current_task();
  struct fdtable *table = READ(AS(files_struct, AS(task_struct, task)->files)->fdt);
  if (fd >= READ(AS(fdtable, table)->max_fds)) return 0;
  return word_at((__u64)READ(AS(fdtable, table)->fd) + 8ul * fd);
}
