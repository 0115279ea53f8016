// SPDX-License-Identifier: GPL-2.0-or-later
// One worker of the way down: does what the scan planned for a window, with buffers of its own.
// Threads: one thread each.
#pragma once

#include <cstdint>

#include "classify/classify.hpp"
#include "fold/leaving_run.hpp"
#include "store/admit.hpp"

namespace ramfold::store {
class Contents;
}

namespace ramfold::fold {

class Folder {
 public:
  explicit Folder(store::Contents& contents) noexcept : contents_(contents) {}

  // Errors are counted in the VM; none is fatal here.
  // What is only looked at: observe and age.
  void look(guest::Vm& vm, GroupId group, const scan::Window& window) noexcept;
  // What is on its way out: fold, again and hold.
  // `admit`: which pages the store may add; those that it does not stay as they are.
  void leave(guest::Vm& vm, GroupId group, const scan::Window& window,
             const classify::Policy& policy, store::Admit admit = store::Admit::all) noexcept;
  // The last leave() met a store without room for a new content. That is no error.
  bool found_store_full() const noexcept { return store_full_; }

 private:
  void observe(guest::Vm& vm, GroupId group, const scan::Window& window) noexcept;
  // What a page that is there was found to hold, into its word. REQUIRES: p is owned as `punching`.
  void note(guest::Vm& vm, GroupId group, PageIndex p, guest::Word word,
            std::uint32_t bits) noexcept;
  void age(guest::Vm& vm, const scan::Window& window) noexcept;
  void hold(guest::Vm& vm, GroupId group, const scan::Window& window) noexcept;
  void fold(guest::Vm& vm, GroupId group, const scan::Window& window,
            const classify::Policy& policy, store::Admit admit) noexcept;

  store::Contents& contents_;
  Copies copies_;
  bool store_full_ = false;
};

}  // namespace ramfold::fold
