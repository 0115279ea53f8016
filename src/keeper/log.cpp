// SPDX-License-Identifier: GPL-2.0-or-later
#include "keeper/log.hpp"

#include <poll.h>
#include <unistd.h>
#include <algorithm>
#include <array>

namespace ramfold::keeper {

void log(std::string_view text) noexcept {
  constexpr std::string_view kWho = "ramfold-keeper: ";
  std::array<char, kLogLineMax> line{};
  char* end = std::ranges::copy(kWho, line.data()).out;
  end = std::ranges::copy(text.substr(0, line.size() - kWho.size() - 1), end).out;
  *end++ = '\n';
  pollfd p{STDERR_FILENO, POLLOUT, 0};
  if (::poll(&p, 1, 0) != 1 || (p.revents & POLLOUT) == 0) return;
  [[maybe_unused]] const auto n =
      ::write(STDERR_FILENO, line.data(), static_cast<std::size_t>(end - line.data()));
}

}  // namespace ramfold::keeper
