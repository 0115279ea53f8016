// SPDX-License-Identifier: GPL-2.0-or-later
// "Did you mean": the known name nearest to a mistyped one.
// Threads: pure functions.
#pragma once

#include <span>
#include <string>
#include <string_view>

namespace ramfold::policy {

// The least number of insertions, deletions, changes and swaps of neighbours that turn `a` into
// `b`. Only the first 128 bytes of each count.
unsigned edit_distance(std::string_view a, std::string_view b);

// The nearest of `known`, compared as a whole and by the part behind the last dot ("passes" finds
// "fold.passes"). Empty when none is near enough.
std::string nearest(std::string_view typed, std::span<const std::string> known);

}  // namespace ramfold::policy
