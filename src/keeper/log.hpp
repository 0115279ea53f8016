// SPDX-License-Identifier: GPL-2.0-or-later
// Writes one line to stderr, with a priority where the journal reads stderr. The line is dropped
// when stderr has no room for it, because the keeper must never sleep in a log.
// Threads: any, after set_up_log().
#pragma once

#include <cstdint>
#include <string_view>

namespace ramfold::keeper {

inline constexpr std::size_t kLogLineMax = 512;  // below PIPE_BUF: written whole or not at all
// As syslog(3) numbers them.
enum class Priority : std::uint8_t { error = 3, warning = 4, info = 6 };
// Once, before the first line.
void set_up_log() noexcept;
void log(Priority priority, std::string_view text) noexcept;

}  // namespace ramfold::keeper
