// SPDX-License-Identifier: GPL-2.0-or-later
// The daemon's log: lines on stderr. If the journal reads stderr, each line begins with a priority,
// else with a timestamp. This header does not include spdlog, which takes seconds to compile.
// Threads: any, after set_up().
#pragma once

#include <fmt/core.h>

#include <cstdint>
#include <string_view>
#include <utility>

namespace ramfold::policy {
enum class LogLevel : std::uint8_t;
}

namespace ramfold::daemon::log {

enum class Level : std::uint8_t { critical, error, warn, info, debug };

// Call it once, before the first line.
void set_up();
// Lines below this level are left out from now on.
void set_level(policy::LogLevel least);
void write(Level level, std::string_view line) noexcept;
// Formats and writes. If formatting fails, writes the format text itself. Never throws.
void format(Level level, fmt::string_view text, fmt::format_args args) noexcept;

template <typename... Args>
void critical(fmt::format_string<Args...> text, Args&&... args) noexcept {
  format(Level::critical, text, fmt::make_format_args(args...));
}
template <typename... Args>
void error(fmt::format_string<Args...> text, Args&&... args) noexcept {
  format(Level::error, text, fmt::make_format_args(args...));
}
template <typename... Args>
void warn(fmt::format_string<Args...> text, Args&&... args) noexcept {
  format(Level::warn, text, fmt::make_format_args(args...));
}
template <typename... Args>
void info(fmt::format_string<Args...> text, Args&&... args) noexcept {
  format(Level::info, text, fmt::make_format_args(args...));
}

}  // namespace ramfold::daemon::log
