// SPDX-License-Identifier: GPL-2.0-or-later
// What sys/pin_test.cpp hands to its BPF program, and gets back: the kernel copies the program's
// context in before the run and out after it. So a run keeps no state, and any thread may ask.
#pragma once

#include <linux/types.h>

#define RF_PIN_PAGES_MAX 64

// Byte values of `answers`.
enum rf_pin_answer {
  RF_PIN_UNANSWERED = 0,  // never a verdict: the program did not come to this page
  RF_PIN_QUIET,
  RF_PIN_HOLE,
  RF_PIN_SWAPPED,
  RF_PIN_BUSY,
  RF_PIN_LARGE,
  RF_PIN_MAPPED_MORE,
  RF_PIN_AGAIN,
};

struct rf_pin_request {
  __u32 fd;     // of the RAM file, in the process that asks
  __u32 pages;  // at most RF_PIN_PAGES_MAX
  __u64 first;  // index of the first page in the file
  // Byte i, from the lowest of the first word on, is of page first + i.
  __u64 answers[RF_PIN_PAGES_MAX / 8];
};
