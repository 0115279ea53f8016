// SPDX-License-Identifier: GPL-2.0-or-later
// What sys/private_pins.cpp hands to its BPF programs, and gets back: the kernel copies a program's
// context in before the run and out after it.
#pragma once

#include <linux/types.h>

#define RF_PRIVATE_PAGES_MAX 64

// Where the kernel keeps things; the same for all questions. Found once (find_kernel).
struct rf_kernel_places {
  __u64 direct_map;  // where it maps all physical memory
  __u64 frames;      // its array of struct page
  __u64 levels;      // of page tables: 4 or 5
};

struct rf_find_request {
  __u32 pagemap;                  // /proc/self/pagemap of who asks
  __u32 file;                     // of one page, in memory
  __u64 address;                  // where who asks has that page mapped
  struct rf_kernel_places found;  // all 0 when the program does not know
};

struct rf_private_request {
  __u32 pagemap;  // /proc/PID/pagemap of the process, in the process that asks
  __u32 pages;    // at most RF_PRIVATE_PAGES_MAX
  __u64 address;  // of the first page
  struct rf_kernel_places kernel;
  __u64 mappings;  // found: how many mappings the process has
  // Byte i, from the lowest of the first word on, is of page i: enum rf_pin_answer.
  __u64 answers[RF_PRIVATE_PAGES_MAX / 8];
};
