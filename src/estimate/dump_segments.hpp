// SPDX-License-Identifier: GPL-2.0-or-later
// Which parts of a dump file are the guest's RAM. Known are the ELF core files that QEMU's
// dump-guest-memory and `virsh dump --memory-only` write; every other file is taken as one piece.
// The file may hold anything: whatever its headers say, only what it really has is named.
// Threads: pure but for what `read` does.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "base/result.hpp"
#include "base/types.hpp"

namespace ramfold::estimate {

// A part of the file that holds RAM, a whole number of pages.
struct DumpSegment {
  std::uint64_t offset = 0;  // bytes
  PageCount pages;

  friend bool operator==(const DumpSegment&, const DumpSegment&) = default;
};

// Fills `into` from `offset` of the file on; false where the file has less.
using ReadAt = std::function<bool(std::uint64_t offset, std::span<std::byte> into)>;

// Every byte of the file lies in one segment at most, and they are in the order of the file. With
// paging=true QEMU writes a segment for each range that the guest's page tables map: the same pages
// may be named many times, in any order. The error names what to do: an ELF file that is no dump of
// a guest, one that was cut short, or no whole page in it.
Result<std::vector<DumpSegment>> segments_of(const ReadAt& read, ByteCount file_size);

// A page that a process maps anywhere makes a segment of its own: 4 GiB of RAM in single pages.
inline constexpr std::size_t kSegmentsMax = 1u << 20;

}  // namespace ramfold::estimate
