// SPDX-License-Identifier: GPL-2.0-or-later
// /proc/PID/pagemap. PAGEMAP_SCAN (6.7) tells which pages of a range are in the process's page
// table, and which are guarded, at about 0.01 us a page, from outside. Reading it tells the frames.
// Documentation/admin-guide/mm/pagemap.rst. Threads: stateless over a descriptor.
#pragma once

#include <cstdint>
#include <span>

#include "base/result.hpp"
#include "base/types.hpp"
#include "sys/proc_file.hpp"
#include "sys/uffd.hpp"

namespace ramfold::sys {

inline constexpr std::uint64_t kPageWritten = 1u << 1;  // not guarded
inline constexpr std::uint64_t kPageFile = 1u << 2;
inline constexpr std::uint64_t kPagePresent = 1u << 3;
inline constexpr std::uint64_t kPageSwapped = 1u << 4;
inline constexpr std::uint64_t kPageHuge = 1u << 6;

// struct page_region of the kernel: [start, end) share the same categories.
struct PageRegion {
  std::uint64_t start;
  std::uint64_t end;
  std::uint64_t categories;
};
static_assert(sizeof(PageRegion) == 24);

// The frame numbers of the pages of `range`, read from `pagemap`, an open /proc/PID/pagemap. 0: the
// page has no frame in the page table, or frame numbers are hidden from this process.
// REQUIRES: `into` has a place for each page.
Status read_frames(BorrowedFd pagemap, UffdRange range, std::span<std::uint64_t> into);

class Pagemap {
 public:
  // As ProcFile: the first scan opens the file.
  Pagemap(pid_t pid, BorrowedFd pidfd) noexcept : file_(pid, pidfd, "pagemap") {}

  // Regions of `range` (at most kUffdCallMax) that have every category of `required`; `returned`
  // says which categories to tell apart. Gives the count, and in `walked` where the kernel stopped
  // (the end of the range, or earlier when `into` was full). ESRCH when the process is gone.
  Result<std::size_t> scan(UffdRange range, std::uint64_t required, std::uint64_t returned,
                           std::span<PageRegion> into, HostVirt& walked) const;
  // As read_frames(). ESRCH when the process is gone.
  Status frames(UffdRange range, std::span<std::uint64_t> into) const;
  // Of the file, which stays open as long as this lives.
  Result<int> descriptor() const { return file_.opened(); }

 private:
  ProcFile file_;
};

}  // namespace ramfold::sys
