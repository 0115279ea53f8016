// SPDX-License-Identifier: GPL-2.0-or-later
// Guest RAM in a file: a raw image, or the ELF core file of QEMU's dump-guest-memory or of `virsh
// dump --memory-only`, whose loadable segments are the RAM. Holes of the file are pages that the
// guest never touched. The file may hold anything: nothing beyond its end is read, whatever the
// headers say.
// Threads: one owner.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "estimate/dump_segments.hpp"
#include "estimate/ram_source.hpp"
#include "sys/fd.hpp"

namespace ramfold::estimate {

enum class TakenAs : bool {
  what_it_is,  // a dump or raw RAM; a file that is known to be something else is an error
  raw,         // RAM from the first byte on, whatever the file looks like
};

class RamDump : public RamSource {
 public:
  // The error names the file and the remedy.
  static Result<std::unique_ptr<RamDump>> open(const std::string& path,
                                               TakenAs taken = TakenAs::what_it_is);

  PageCount size() const noexcept override { return size_; }
  PageCount present() const noexcept override { return present_; }
  Status each(const PageVisitor& visit) override;
  bool read(PageIndex page, PageCopy& into) override;

 private:
  RamDump(sys::Fd file, std::string path, std::vector<DumpSegment> segments);
  Status count();
  // Calls each(first page, file offset, pages) for every run of pages that is no hole, in order,
  // until it returns false.
  template <typename Each>
  Status each_extent(Each&& each) const;

  sys::Fd file_;
  std::string path_;
  std::vector<DumpSegment> segments_;
  std::vector<std::uint64_t> first_pages_;  // of each segment
  PageCount size_;
  PageCount present_;
};

}  // namespace ramfold::estimate
