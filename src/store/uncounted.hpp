// SPDX-License-Identifier: GPL-2.0-or-later
// The groups of pages whose references recovery has not counted. Such a page may name any content
// of its group that recovery found.
// Threads: a plain value.
#pragma once

#include <algorithm>
#include <vector>

#include "base/types.hpp"

namespace ramfold::store {

struct Uncounted {
  bool any_group = false;  // the group of some of these pages is not known
  std::vector<GroupId> groups;

  bool none() const noexcept { return !any_group && groups.empty(); }
  bool covers(GroupId group) const noexcept {
    return any_group || std::ranges::find(groups, group) != groups.end();
  }
};

}  // namespace ramfold::store
