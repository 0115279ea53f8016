// SPDX-License-Identifier: GPL-2.0-or-later
// One worker of the way down: does what the scan planned for a window, with buffers of its own.
// Threads: one thread each.
#pragma once

#include <cstdint>

#include "classify/classify.hpp"
#include "fold/leaving_run.hpp"

namespace ramfold::fold {

class Folder {
 public:
  explicit Folder(store::Contents& contents) noexcept : contents_(contents) {}

  // look(), and leave() if `may_fold`. Errors are counted in the VM; none is fatal here.
  void work(guest::Vm& vm, GroupId group, const scan::Window& window,
            const classify::Policy& policy, bool may_fold) noexcept;
  // What is only looked at: observe and age.
  void look(guest::Vm& vm, GroupId group, const scan::Window& window) noexcept;
  // What is on its way out: fold, again and hold.
  void leave(guest::Vm& vm, GroupId group, const scan::Window& window,
             const classify::Policy& policy) noexcept;
  // Why the last put() failed, 0 when it did not: ENOSPC and ENOMEM stop folding for a while.
  int store_error() const noexcept { return store_error_; }

 private:
  void observe(guest::Vm& vm, GroupId group, const scan::Window& window) noexcept;
  // What a page that is there was found to hold, into its word. REQUIRES: p is owned as `punching`.
  void note(guest::Vm& vm, GroupId group, PageIndex p, guest::Word word,
            std::uint32_t bits) noexcept;
  void age(guest::Vm& vm, const scan::Window& window) noexcept;
  void hold(guest::Vm& vm, GroupId group, const scan::Window& window) noexcept;
  void fold(guest::Vm& vm, GroupId group, const scan::Window& window,
            const classify::Policy& policy) noexcept;

  store::Contents& contents_;
  Copies copies_;
  int store_error_ = 0;
};

}  // namespace ramfold::fold
