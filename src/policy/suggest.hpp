// SPDX-License-Identifier: GPL-2.0-or-later
// "Did you mean": the known name nearest to a mistyped one.
// Threads: pure functions.
#pragma once

#include <span>
#include <string>
#include <string_view>

namespace ramfold::policy {

// Insertions, deletions, changes and swaps of neighbours that lead from `a` to `b`.
unsigned edit_distance(std::string_view a, std::string_view b);

// The nearest of `known`, compared whole and by its last dotted part ("passes" finds
// "fold.passes"); empty when none is near enough to be meant.
std::string nearest(std::string_view typed, std::span<const std::string> known);

}  // namespace ramfold::policy
