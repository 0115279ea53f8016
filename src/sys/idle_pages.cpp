// SPDX-License-Identifier: GPL-2.0-or-later
#include "sys/idle_pages.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>

#include "sys/pagemap.hpp"

namespace ramfold::sys {
namespace {

constexpr std::uint64_t kFramesAWord = 64;

off_t place_of(std::uint64_t frame) noexcept {
  return static_cast<off_t>(frame / kFramesAWord * sizeof(std::uint64_t));
}
std::uint64_t bit_of(std::uint64_t frame) noexcept {
  return std::uint64_t{1} << frame % kFramesAWord;
}

// Touched by open(), so that it has a frame.
alignas(kPageSize) std::array<volatile std::byte, kPageSize> probe_page;

}  // namespace

HostVirt IdlePages::probe() noexcept {
  return HostVirt{reinterpret_cast<std::uintptr_t>(probe_page.data())};
}

Result<IdlePages> IdlePages::open(const Files& files) {
  Fd bitmap(::open(files.bitmap.c_str(), O_RDWR | O_CLOEXEC));
  if (!bitmap && errno == ENOENT) {
    return fail("the kernel has no idle page tracking (CONFIG_IDLE_PAGE_TRACKING)");
  }
  if (!bitmap) return fail("open " + files.bitmap, errno);
  const Fd pagemap(::open(files.own_pagemap.c_str(), O_RDONLY | O_CLOEXEC));
  if (!pagemap) return fail("open " + files.own_pagemap, errno);
  probe_page[0] = std::byte{1};
  std::uint64_t frame = 0;
  const Status read = read_frames(pagemap, {probe(), ByteCount{kPageSize}}, {&frame, 1});
  if (!read) return std::unexpected(read.error());
  if (frame == 0) return fail("frame numbers in /proc/PID/pagemap are hidden (CAP_SYS_ADMIN)");
  return IdlePages(std::move(bitmap));
}

Status IdlePages::mark(std::span<const std::uint64_t> frames) const {
  std::array<std::uint64_t, kFramesMax> sorted;
  const auto end = std::ranges::copy(frames, sorted.begin()).out;
  std::sort(sorted.begin(), end);
  for (auto at = std::upper_bound(sorted.begin(), end, std::uint64_t{0}); at != end;) {
    const off_t place = place_of(*at);
    std::uint64_t word = 0;
    for (; at != end && place_of(*at) == place; ++at) word |= bit_of(*at);
    if (::pwrite(bitmap_.get(), &word, sizeof word, place) != sizeof word)
      return fail_errno("mark page frames idle");
  }
  return {};
}

Status IdlePages::read(std::span<const std::uint64_t> frames, std::span<bool> idle) const {
  std::array<std::uint16_t, kFramesMax> order;
  for (std::size_t i = 0; i < frames.size(); ++i) order[i] = static_cast<std::uint16_t>(i);
  const std::span sorted = std::span(order).first(frames.size());
  std::ranges::sort(sorted, {}, [&](std::uint16_t i) { return frames[i]; });
  for (auto at = sorted.begin(); at != sorted.end();) {
    if (frames[*at] == 0) {
      idle[*at++] = false;
      continue;
    }
    const off_t place = place_of(frames[*at]);
    std::uint64_t word = 0;
    if (::pread(bitmap_.get(), &word, sizeof word, place) != sizeof word)
      return fail_errno("read which page frames are idle");
    for (; at != sorted.end() && place_of(frames[*at]) == place; ++at)
      idle[*at] = (word & bit_of(frames[*at])) != 0;
  }
  return {};
}

}  // namespace ramfold::sys
