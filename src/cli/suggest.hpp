// SPDX-License-Identifier: GPL-2.0-or-later
// Finds the known word that a misspelt word may stand for.
// Threads: pure functions.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace ramfold::cli {

// Of `known` the word closest to `word`, upper and lower case alike; empty when none is close.
std::string closest(std::string_view word, const std::vector<std::string>& known);
// "; did you mean 'list'?", or nothing.
std::string did_you_mean(std::string_view word, const std::vector<std::string>& known);

}  // namespace ramfold::cli
