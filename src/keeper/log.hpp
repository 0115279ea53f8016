// SPDX-License-Identifier: GPL-2.0-or-later
// One line to stderr; dropped when nobody reads it, for the keeper must never sleep in a log.
// Threads: any.
#pragma once

#include <string_view>

namespace ramfold::keeper {

inline constexpr std::size_t kLogLineMax = 512;  // below PIPE_BUF: written whole or not at all
void log(std::string_view text) noexcept;

}  // namespace ramfold::keeper
