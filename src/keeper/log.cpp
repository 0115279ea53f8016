// SPDX-License-Identifier: GPL-2.0-or-later
#include "keeper/log.hpp"

#include <poll.h>
#include <unistd.h>
#include <algorithm>
#include <array>

#include "sys/journal.hpp"

namespace ramfold::keeper {
namespace {

bool g_to_journal = false;  // written once, by set_up_log()

}  // namespace

void set_up_log() noexcept { g_to_journal = sys::journal_reads_stderr(); }

void log(Priority priority, std::string_view text) noexcept {
  constexpr std::string_view kWho = "ramfold-keeper: ";
  std::array<char, kLogLineMax> line{};
  char* end = line.data();
  if (g_to_journal) {  // the journal adds the name and the time
    for (const char c : {'<', static_cast<char>('0' + static_cast<int>(priority)), '>'}) *end++ = c;
  } else {
    end = std::ranges::copy(kWho, end).out;
  }
  const auto room = static_cast<std::size_t>(line.data() + line.size() - end) - 1;
  end = std::ranges::copy(text.substr(0, room), end).out;
  *end++ = '\n';
  pollfd p{STDERR_FILENO, POLLOUT, 0};
  if (::poll(&p, 1, 0) != 1 || (p.revents & POLLOUT) == 0) return;
  [[maybe_unused]] const auto n =
      ::write(STDERR_FILENO, line.data(), static_cast<std::size_t>(end - line.data()));
}

}  // namespace ramfold::keeper
