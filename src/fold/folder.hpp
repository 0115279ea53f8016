// SPDX-License-Identifier: GPL-2.0-or-later
// Carries out what the scan planned for a window. Each worker thread has a Folder of its own.
// Threads: one thread each.
#pragma once

#include <array>
#include <cstdint>

#include "classify/classify.hpp"
#include "fold/leaving_run.hpp"
#include "store/admit.hpp"
#include "store/contents.hpp"

namespace ramfold::fold {

class Folder {
 public:
  Folder(store::Contents& contents, guest::QuietProof& proof) noexcept
      : contents_(contents), proof_(proof) {}

  // Carries out window.observe and window.age: these pages stay. Errors are counted in the VM, here
  // and in leave(); none is fatal.
  // `epochs`: passes since the last look at these pages.
  void look(guest::Vm& vm, GroupId group, const scan::Window& window, unsigned epochs = 1) noexcept;
  // Carries out window.fold and window.again: these pages leave.
  // `admit`: which pages the store may add; other pages stay as they are.
  void leave(guest::Vm& vm, GroupId group, const scan::Window& window,
             const classify::Policy& policy, store::Admit admit = store::Admit::all) noexcept;
  // The last leave() met a store without room for a new content. That is no error.
  bool found_store_full() const noexcept { return store_full_; }

 private:
  void observe(guest::Vm& vm, GroupId group, const scan::Window& window) noexcept;
  // Notes the hash bits of a resident page in its word. REQUIRES: p is owned as `punching`.
  void note(guest::Vm& vm, GroupId group, PageIndex p, guest::Word word,
            std::uint32_t bits) noexcept;
  void age(guest::Vm& vm, const scan::Window& window, unsigned epochs) noexcept;
  void fold(guest::Vm& vm, GroupId group, const scan::Window& window,
            const classify::Policy& policy, store::Admit admit) noexcept;

  store::Contents& contents_;
  guest::QuietProof& proof_;
  // Of the window at hand.
  Copies copies_;
  std::array<store::PutRequest, scan::kWindowPages> requests_;
  std::array<Result<store::PutResult>, scan::kWindowPages> results_;
  std::array<unsigned, scan::kWindowPages> page_of_{};  // of each request
  bool store_full_ = false;
};

}  // namespace ramfold::fold
