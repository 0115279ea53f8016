// SPDX-License-Identifier: GPL-2.0-or-later
// Finds the parts of a dump file that are the guest's RAM. It knows the ELF core files of QEMU's
// dump-guest-memory and of `virsh dump --memory-only`; every other file is one segment. The file
// may hold anything: no segment reaches beyond the end of the file, whatever the headers say.
// Threads: pure, except for `read`.
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

// Fills `into` with the file's bytes from `offset` on; false when the file ends before.
using ReadAt = std::function<bool(std::uint64_t offset, std::span<std::byte> into)>;

// Segments do not overlap, and are in the order of the file. With paging=true QEMU writes a segment
// header for each range that the guest's page tables map; such headers may name the same pages many
// times, in any order. Errors, each with its remedy: an ELF file that is no dump of a guest, a dump
// that was cut short, a file without a whole page.
Result<std::vector<DumpSegment>> segments_of(const ReadAt& read, ByteCount file_size);

// With paging=true a single page may be a segment of its own. So this is enough for 4 GiB of RAM in
// single pages.
inline constexpr std::size_t kSegmentsMax = 1u << 20;

}  // namespace ramfold::estimate
