// SPDX-License-Identifier: GPL-2.0-or-later
// Who uses a trust group. A group lives as long as somebody uses it or a content is in it; then its
// name and its seed are wiped, and its id may be another group's.
// Threads: a GroupUse belongs to one; different ones to any.
#pragma once

#include <cstddef>
#include <memory>
#include <utility>

#include "base/types.hpp"

namespace ramfold::store {

class GroupTable;

inline constexpr std::size_t kGroupsMax = 4096;   // at a time; a group per VM at most
inline constexpr std::size_t kGroupNameMax = 96;  // bytes

// One user's hold on a group, for as long as that user puts pages into it: a VM has one. It may
// outlive the store that it came from.
class [[nodiscard]] GroupUse {
 public:
  GroupUse() noexcept = default;
  // Takes over a use that the caller counted in the table.
  GroupUse(std::shared_ptr<GroupTable> table, GroupId id) noexcept
      : table_(std::move(table)), id_(id) {}
  GroupUse(GroupUse&& other) noexcept : table_(std::move(other.table_)), id_(other.id_) {}
  GroupUse& operator=(GroupUse&& other) noexcept {
    if (this != &other) {
      reset();
      table_ = std::move(other.table_);
      id_ = other.id_;
    }
    return *this;
  }
  ~GroupUse() { reset(); }

  // The id means this group only while the use lives: that of a temporary cannot be kept.
  GroupId id() const& noexcept { return id_; }
  GroupId id() const&& = delete;
  operator GroupId() const& noexcept { return id_; }  // NOLINT: it stands for its group in calls
  operator GroupId() const&& = delete;
  void reset() noexcept;

 private:
  std::shared_ptr<GroupTable> table_;
  GroupId id_{};
};

}  // namespace ramfold::store
