// SPDX-License-Identifier: GPL-2.0-or-later
// Asks the kernel who holds the private copies of pages of a process: pages that map a file
// privately and were written. sys/pin_test.hpp asks the same about pages of a file. The BPF program
// follows the process's page table (bpf/private_pins.bpf.c). x86-64 alone.
//
// What an answer proves depends on when it is given: see guest/private_proof.hpp.
// Threads: load() from one thread at a time, ask() from any, beside each other.
#pragma once

#include <expected>
#include <optional>
#include <span>

#include "sys/bpf/private_pins_request.h"
#include "sys/pagemap.hpp"
#include "sys/pin_test.hpp"

namespace ramfold::sys {

class PrivatePins;
using LoadedPrivatePins = std::expected<PrivatePins, PinTestRefusal>;

class PrivatePins {
 public:
  static constexpr PageCount kPagesMax{RF_PRIVATE_PAGES_MAX};

  // Finds out where the kernel keeps its tables, and tries the program on pages of its own. Needs
  // PinTest::kCapabilities.
  static LoadedPrivatePins load(const Procfs& procfs);

  // Of the pages from `first` on, in the process of `pagemap`:
  //   quiet    there is a private copy, and nothing but the page table holds it
  //   hole     there is no private copy
  //   swapped  it may be in swap: reading the page brings it back
  //   others   as PinAnswer says; an answer that may change
  // False: the kernel did not answer; then every answer is `unanswered`. REQUIRES: at most
  // kPagesMax.
  bool ask(const Pagemap& pagemap, HostVirt first, std::span<PinAnswer> answers) const noexcept;
  // How many mappings the process has; nothing: the kernel did not answer.
  std::optional<std::uint64_t> mappings(const Pagemap& pagemap) const noexcept;

 private:
  PrivatePins(Fd program, const rf_kernel_places& kernel) noexcept
      : program_(std::move(program)), kernel_(kernel) {}
  bool run(rf_private_request& request, const Pagemap& pagemap) const noexcept;

  Fd program_;
  rf_kernel_places kernel_;
};

}  // namespace ramfold::sys
