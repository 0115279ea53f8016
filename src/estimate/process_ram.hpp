// SPDX-License-Identifier: GPL-2.0-or-later
// The RAM of a running QEMU, with or without the agent, anonymous or shared. Only pages in the
// process's page table are read; pagemap tells which, for at most kBatch pages just before they are
// read. So swapped pages stay swapped out, holes stay holes, and folded pages stay folded. Reading
// marks a page as accessed, and changes nothing else.
// Threads: one owner.
#pragma once

#include <memory>
#include <vector>

#include "estimate/find_ram.hpp"
#include "estimate/ram_source.hpp"
#include "sys/remote_memory.hpp"

namespace ramfold::estimate {

class ProcessRam : public RamSource {
 public:
  // Errors name the remedy. ESRCH: the process has ended.
  static Result<std::unique_ptr<ProcessRam>> open(pid_t pid, std::vector<RamRange> ranges);

  PageCount size() const noexcept override { return size_; }
  PageCount present() const noexcept override { return present_; }
  Status each(const PageVisitor& visit) override;
  bool read(PageIndex page, PageCopy& into) override;

 private:
  static constexpr std::size_t kBatch = sys::RemoteMemory::kPagesMax;

  ProcessRam(sys::RemoteMemory memory, std::vector<RamRange> ranges);
  Status count();
  // Adjacent pages of one range.
  struct Part {
    HostVirt at;
    PageIndex first;
    std::size_t count;
    bool shared;
  };
  // Visits the present pages of a part of at most kBatch pages. False: the visitor stopped.
  Result<bool> visit_part(const Part& part, const PageVisitor& visit);
  template <typename Each>
  Status each_part(std::size_t most, Each&& each);

  sys::RemoteMemory memory_;
  std::vector<RamRange> ranges_;
  PageCount size_;
  PageCount present_;
  std::vector<PageCopy> copies_;
};

}  // namespace ramfold::estimate
