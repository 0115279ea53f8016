// SPDX-License-Identifier: GPL-2.0-or-later
// Guest RAM for an estimate to read: of a running QEMU, or from a dump. Reading changes nothing in
// the guest, and brings no page of it into memory.
// Threads: one owner.
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
  // Calls visit(page, copy) for every present page, in order. Each page is copied once.
  virtual Status each(const PageVisitor& visit) = 0;
  // Reads one page again; false when it is no longer present.
  virtual bool read(PageIndex page, PageCopy& into) = 0;

  // Pages that each() has left out.
  struct LeftOut {
    PageCount swapped;  // the host has swapped them out
    PageCount moved;    // they went away between pagemap and the read
    PageCount merged;   // visited, not left out; but KSM has merged them already
  };
  const LeftOut& left_out() const noexcept { return left_out_; }

 protected:
  RamSource() = default;
  LeftOut left_out_;
};

}  // namespace ramfold::estimate
