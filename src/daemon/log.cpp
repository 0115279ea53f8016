// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/log.hpp"

#include <fmt/format.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>
#include <systemd/sd-daemon.h>
#include <array>
#include <iterator>

#include "policy/config.hpp"
#include "sys/journal.hpp"

namespace ramfold::daemon::log {
namespace {

constexpr std::array kLevels{spdlog::level::critical, spdlog::level::err, spdlog::level::warn,
                             spdlog::level::info, spdlog::level::debug};
constexpr std::array<std::string_view, 5> kPriorities{SD_CRIT, SD_ERR, SD_WARNING, SD_INFO,
                                                      SD_DEBUG};

bool to_journal = false;  // written once, by set_up()

}  // namespace

void set_up() {
  to_journal = sys::journal_reads_stderr();
  spdlog::set_default_logger(spdlog::stderr_logger_mt("ramfoldd"));
  // The journal has its own clock; the priority stands before the text (sd-daemon(3)).
  spdlog::set_pattern(to_journal ? "%v" : "%Y-%m-%dT%H:%M:%S.%e %l %v");
}

void set_level(policy::LogLevel least) {
  constexpr std::array levels{spdlog::level::err, spdlog::level::warn, spdlog::level::info,
                              spdlog::level::debug};
  spdlog::set_level(levels[static_cast<std::size_t>(least)]);
}

void write(Level level, std::string_view line) noexcept {
  const auto i = static_cast<std::size_t>(level);
  try {
    if (to_journal) {
      spdlog::log(kLevels[i], "{}{}", kPriorities[i], line);
    } else {
      spdlog::log(kLevels[i], line);
    }
  } catch (...) {  // a failed write (disk full, no memory) must not end the daemon
  }
}

void format(Level level, fmt::string_view text, fmt::format_args args) noexcept {
  try {
    fmt::memory_buffer line;
    fmt::vformat_to(std::back_inserter(line), text, args);
    write(level, {line.data(), line.size()});
  } catch (...) {
    write(level, {text.data(), text.size()});
  }
}

}  // namespace ramfold::daemon::log
