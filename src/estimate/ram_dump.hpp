// SPDX-License-Identifier: GPL-2.0-or-later
// Guest RAM in a file: a raw image of it, or the ELF core file that QEMU's dump-guest-memory and
// `virsh dump --memory-only` write, of which the loadable segments are the RAM. Holes of the file
// are pages that were never touched. The file may hold anything: whatever its headers say, only
// what it really has is read. Threads: one owner.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "estimate/ram_source.hpp"
#include "sys/fd.hpp"

namespace ramfold::estimate {

// A part of the file that holds RAM, a whole number of pages.
struct DumpSegment {
  std::uint64_t offset = 0;  // bytes
  PageCount pages;

  friend bool operator==(const DumpSegment&, const DumpSegment&) = default;
};

// Segments of an ELF core file of little-endian 32 or 64 bits; one of the whole file when it is
// none. `head`: its first bytes, kHeadMax of them where it has so many. The error names what to do:
// a compressed dump, an ELF file that is no core, or no whole page in it.
inline constexpr std::size_t kHeadMax = 1u << 20;
Result<std::vector<DumpSegment>> segments_of(std::span<const std::byte> head, ByteCount file_size);

class RamDump : public RamSource {
 public:
  static Result<std::unique_ptr<RamDump>> open(const std::string& path);

  PageCount size() const noexcept override { return size_; }
  PageCount present() const noexcept override { return present_; }
  Status each(const PageVisitor& visit) override;
  bool read(PageIndex page, PageCopy& into) override;

 private:
  RamDump(sys::Fd file, std::string path, std::vector<DumpSegment> segments);
  Status count();
  // Calls each(first page, file offset, pages) for what the file holds, in order, until it is
  // false.
  template <typename Each>
  Status each_extent(Each&& each) const;

  sys::Fd file_;
  std::string path_;
  std::vector<DumpSegment> segments_;
  PageCount size_;
  PageCount present_;
};

}  // namespace ramfold::estimate
