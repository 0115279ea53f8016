// SPDX-License-Identifier: GPL-2.0-or-later
// Guest RAM that an estimate reads: of a running QEMU, or of a dump. Read-only in the strictest
// sense: nothing that is not in memory is brought there. Threads: one owner.
#pragma once

#include <functional>
#include <string>

#include "base/page_copy.hpp"
#include "base/result.hpp"
#include "base/types.hpp"

namespace ramfold::estimate {

// Returns false to stop.
using PageVisitor = std::function<bool(PageIndex, const PageCopy&)>;

class RamSource {
 public:
  virtual ~RamSource() = default;
  RamSource(const RamSource&) = delete;
  RamSource& operator=(const RamSource&) = delete;

  virtual PageCount size() const noexcept = 0;  // of the RAM
  // How many pages each() would visit if nothing changed.
  virtual PageCount present() const noexcept = 0;
  // Every page that is there, in order. Each is a copy, made once.
  virtual Status each(const PageVisitor& visit) = 0;
  // One page again; false when it is not there any more.
  virtual bool read(PageIndex page, PageCopy& into) = 0;

  // Pages that each() has left out.
  struct LeftOut {
    PageCount swapped;  // paged out by the host
    PageCount moved;    // went away between the look and the read
    PageCount merged;   // read, but not the process's alone: merged by KSM already
  };
  const LeftOut& left_out() const noexcept { return left_out_; }

 protected:
  RamSource() = default;
  LeftOut left_out_;
};

}  // namespace ramfold::estimate
