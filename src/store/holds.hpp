// SPDX-License-Identifier: GPL-2.0-or-later
// Which ids the store holds for pages that recovery has not counted (Uncounted): all ids of their
// groups that were below the limit when recovery ended. A hold on a content is one reference more.
// A hold on an id without a content keeps it from the free list.
// Threads: has() and covers() any; the others one at a time.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

#include "base/result.hpp"
#include "base/types.hpp"
#include "store/group.hpp"
#include "store/uncounted.hpp"
#include "sys/memory.hpp"

namespace ramfold::store {

class Holds {
 public:
  // Covers these groups, and has room for the ids below `limit`. Errors: ENOMEM.
  Status begin(const Uncounted& uncounted, std::uint32_t limit);
  // From now on covers only groups that `still` covers, too.
  void narrow(const Uncounted& still) noexcept;

  bool any() const noexcept { return covers_any_.load(std::memory_order_acquire); }
  bool covers(GroupId group) const noexcept;
  // All ids that are held are below this.
  std::uint32_t limit() const noexcept { return limit_; }
  bool has(ContentId id) const noexcept;
  void add(ContentId id) noexcept;
  void remove(ContentId id) noexcept;

 private:
  using Word = std::atomic<std::uint64_t>;

  std::uint32_t limit_ = 0;
  sys::Mapping memory_;
  std::atomic<Word*> ids_{nullptr};  // a bit for each id below limit_
  std::atomic<bool> covers_any_{false};
  std::atomic<bool> covers_all_{false};
  std::array<Word, kGroupsMax / 64> groups_{};  // a bit for each group
};

}  // namespace ramfold::store
