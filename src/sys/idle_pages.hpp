// SPDX-License-Identifier: GPL-2.0-or-later
// The kernel's idle page tracking (CONFIG_IDLE_PAGE_TRACKING): a bit for each page frame, which the
// kernel clears when anything touches the frame, through whatever page table. The file holds words
// of 8 bytes; bit i of word w is frame 64 w + i. A set bit that is written marks the frame idle; a
// bit that is not set changes nothing. Documentation/admin-guide/mm/idle_page_tracking.rst.
//
// The kernel tracks only frames on its LRU lists. A frame that is not there is not marked, and so
// does not look idle.
// Threads: any.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "base/result.hpp"
#include "base/types.hpp"
#include "sys/fd.hpp"

namespace ramfold::sys {

class IdlePages {
 public:
  struct Files {
    std::string bitmap = "/sys/kernel/mm/page_idle/bitmap";
    std::string own_pagemap = "/proc/self/pagemap";
  };
  // Fails where the kernel has no such file, where this process may not write it, or where frame
  // numbers are hidden from it (they take CAP_SYS_ADMIN). The error says what is missing.
  static Result<IdlePages> open(const Files& files);
  // A page of this process, by which open() finds out whether frame numbers are hidden.
  static HostVirt probe() noexcept;

  static constexpr std::size_t kFramesMax = 1024;
  // Frame 0: none. REQUIRES: at most kFramesMax frames.
  Status mark(std::span<const std::uint64_t> frames) const;
  // Sets idle[i] if frames[i] was marked and nothing has touched it since. REQUIRES: as above; two
  // spans of one length.
  Status read(std::span<const std::uint64_t> frames, std::span<bool> idle) const;

 private:
  explicit IdlePages(Fd bitmap) noexcept : bitmap_(std::move(bitmap)) {}

  Fd bitmap_;
};

}  // namespace ramfold::sys
