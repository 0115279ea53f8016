// SPDX-License-Identifier: GPL-2.0-or-later
// Asks the kernel which pages of a memory file are held: by a device write in flight, a registered
// buffer, a pipe, a second mapping. A BPF program looks at the reference and map counts of the
// frames (bpf/pin_test.bpf.c); its rule is the kernel's own for moving a page.
//
// What an answer proves depends on when it is given: see guest/quiet_proof.hpp.
// Threads: load() from one thread at a time, ask() from any, beside each other: a run keeps no
// state. Loading needs kCapabilities, asking needs no capability.
#pragma once

#include <linux/capability.h>

#include <array>
#include <cstdint>
#include <expected>
#include <span>
#include <string>
#include <string_view>

#include "base/types.hpp"
#include "sys/bpf/pin_test_request.h"
#include "sys/fd.hpp"
#include "sys/procfs.hpp"

namespace ramfold::sys {

enum class PinAnswer : std::uint8_t {
  unanswered = RF_PIN_UNANSWERED,    // the kernel did not say anything
  quiet = RF_PIN_QUIET,              // nothing but the page cache and one page table entry, or none
  hole = RF_PIN_HOLE,                // the file does not hold the page
  swapped = RF_PIN_SWAPPED,          // the file holds it in swap
  busy = RF_PIN_BUSY,                // something else holds the frame
  large = RF_PIN_LARGE,              // the frame is part of a large folio
  mapped_more = RF_PIN_MAPPED_MORE,  // more than one page table entry
  again = RF_PIN_AGAIN,              // it changed while the program looked
};
std::string_view name_of(PinAnswer answer) noexcept;

// Why the kernel does not load the program.
struct PinTestRefusal {
  // lockdown: the kernel is locked down for confidentiality. Linux as it is loads the program all
  // the same: this level takes away helpers that read kernel memory (bpf_base_func_proto() in
  // kernel/bpf/helpers.c), and the program calls none. So it is a guess, and `code` may have
  // another cause.
  enum class Why : std::uint8_t { kernel_too_old, no_types, lockdown, not_permitted, refused };

  Why why = Why::refused;
  int code = 0;        // errno
  std::string said{};  // the verifier's reason, or libbpf's

  std::string text() const;
  std::string_view remedy() const noexcept;
};

// The reason that the kernel or libbpf gives for a program that was not loaded.
struct LoadWords {
  std::string text{};
  bool of_verifier = false;  // the kernel was ready to load programs, and refused this one
};
// Which of them it was, by what else is known of the host.
PinTestRefusal refusal_of(int code, LoadWords words, const Procfs& procfs);

class PinTest;
using LoadedPinTest = std::expected<PinTest, PinTestRefusal>;

class PinTest {
 public:
  static constexpr PageCount kPagesMax{RF_PIN_PAGES_MAX};
  // What loading takes, besides the system call bpf.
  static constexpr std::array<int, 2> kCapabilities{CAP_BPF, CAP_PERFMON};

  static LoadedPinTest load(const Procfs& procfs);

  // Answers for the pages of `file` from `first` on, an index in the file. False: the kernel did
  // not run the program, or does not know the file; then every answer is `unanswered`. `bench/run
  // gate` measures what it costs. REQUIRES: at most kPagesMax; `file` is a descriptor of this
  // process and stays open.
  bool ask(BorrowedFd file, std::uint64_t first, std::span<PinAnswer> answers) const noexcept;

 private:
  explicit PinTest(Fd program) noexcept : program_(std::move(program)) {}

  Fd program_;
};

}  // namespace ramfold::sys
