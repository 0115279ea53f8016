// SPDX-License-Identifier: GPL-2.0-or-later
// Counts the references of one VM after a restart, page by page, as the owner of each page. Where a
// fault owns a page for long, it stops there and goes on at the next call.
// Threads: one at a time.
#pragma once

#include <atomic>
#include <cstdint>

#include "daemon/fleet/attached_vm.hpp"

namespace ramfold::store {
class Contents;
}

namespace ramfold::daemon {

class Counting {
 public:
  // REQUIRES: the VM outlives this, and was not counted by another one.
  explicit Counting(AttachedVm& vm) noexcept : vm_(&vm) {}

  // True: all is counted, and vm.counted is set. False: a page has another owner, or `stop` is set.
  bool go_on(store::Contents& contents, const std::atomic<bool>& stop);

 private:
  bool count_rest(store::Contents& contents, const std::atomic<bool>& stop);
  void count_page(store::Contents& contents, PageIndex p);
  void end();

  AttachedVm* vm_;
  PageIndex next_{0};          // where the next call goes on
  std::uint64_t mapped_ = 0;   // words that say so
  std::uint64_t damaged_ = 0;  // words; recover_mappings() or a fault repairs them
  std::uint64_t refused_ = 0;  // references that the store does not know
};

}  // namespace ramfold::daemon
