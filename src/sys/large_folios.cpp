// SPDX-License-Identifier: GPL-2.0-or-later
#include "sys/large_folios.hpp"

#include <fcntl.h>
#include <linux/kernel-page-flags.h>
#include <unistd.h>
#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <span>

namespace ramfold::sys {
namespace {

constexpr std::size_t kBatch = 512;
constexpr std::uint64_t kPresent = std::uint64_t{1} << 63;
constexpr std::uint64_t kFrameMask = (std::uint64_t{1} << 55) - 1;
constexpr std::uint64_t kLarge = std::uint64_t{1} << KPF_COMPOUND_HEAD |
                                 std::uint64_t{1} << KPF_COMPOUND_TAIL |
                                 std::uint64_t{1} << KPF_THP;

Result<std::size_t> read_words(const Fd& file, std::span<std::uint64_t> into, std::uint64_t index) {
  const ssize_t n = ::pread(file.get(), into.data(), into.size_bytes(),
                            static_cast<off_t>(index * sizeof(std::uint64_t)));
  if (n < 0) return fail_errno("read page flags");
  return static_cast<std::size_t>(n) / sizeof(std::uint64_t);
}

// Frames are often neighbours: a run of them is one read.
Result<bool> any_large(const Fd& flags, std::span<const std::uint64_t> frames) {
  std::array<std::uint64_t, kBatch> words;
  for (std::size_t at = 0; at < frames.size();) {
    std::size_t run = 1;
    while (at + run < frames.size() && frames[at + run] == frames[at] + run) ++run;
    const auto got = read_words(flags, std::span(words).first(run), frames[at]);
    if (!got) return std::unexpected(got.error());
    if (*got != run) return fail("page flags end early", EIO);
    if (std::any_of(words.begin(), words.begin() + static_cast<std::ptrdiff_t>(run),
                    [](std::uint64_t word) { return (word & kLarge) != 0; })) {
      return true;
    }
    at += run;
  }
  return false;
}

}  // namespace

Result<bool> has_large_folio(pid_t pid, UffdRange range) {
  std::array<char, 64> path;
  std::snprintf(path.data(), path.size(), "/proc/%d/pagemap", static_cast<int>(pid));
  const Fd pagemap(::open(path.data(), O_RDONLY | O_CLOEXEC));
  if (!pagemap) return fail("open a pagemap", errno == ENOENT ? ESRCH : errno);
  const Fd flags(::open("/proc/kpageflags", O_RDONLY | O_CLOEXEC));
  if (!flags) return fail_errno("open /proc/kpageflags");
  std::array<std::uint64_t, kBatch> entries;
  std::array<std::uint64_t, kBatch> frames;
  const std::uint64_t first = range.start.value >> kPageShift;
  const std::uint64_t end = first + (range.size.value >> kPageShift);
  for (std::uint64_t at = first; at < end;) {
    const auto wanted = static_cast<std::size_t>(std::min<std::uint64_t>(kBatch, end - at));
    const auto got = read_words(pagemap, std::span(entries).first(wanted), at);
    if (!got) return std::unexpected(got.error());
    if (*got == 0) return fail("the process has ended", ESRCH);
    std::size_t present = 0;
    for (std::size_t i = 0; i < *got; ++i) {
      if ((entries[i] & kPresent) == 0) continue;
      frames[present] = entries[i] & kFrameMask;
      if (frames[present++] == 0) return fail("the kernel hides frame numbers", EPERM);
    }
    const auto large = any_large(flags, std::span(frames).first(present));
    if (!large || *large) return large;
    at += *got;
  }
  return false;
}

}  // namespace ramfold::sys
