// SPDX-License-Identifier: GPL-2.0-or-later
// A hold on a trust group. A group lives as long as it has a GroupUse or a content. Then its name
// and its seed are wiped, and its id may be given to another group.
// Threads: one at a time for each GroupUse.
#pragma once

#include <cstddef>
#include <memory>
#include <utility>

#include "base/types.hpp"

namespace ramfold::store {

class GroupTable;

inline constexpr std::size_t kGroupsMax = 4096;   // at a time; a VM needs at most one
inline constexpr std::size_t kGroupNameMax = 96;  // bytes

// One hold on a group. A VM has one while it puts pages into the group. A GroupUse may outlive its
// store.
class [[nodiscard]] GroupUse {
 public:
  GroupUse() noexcept = default;
  // Takes over a use that GroupTable::acquire() has counted.
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

  // The id means this group only while this object lives. So a temporary does not give its id away.
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
