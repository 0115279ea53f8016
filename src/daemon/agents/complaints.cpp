// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/agents/complaints.hpp"

#include "base/clock.hpp"
#include "daemon/log.hpp"

namespace ramfold::daemon {

void Complaints::warn(uid_t uid, const std::string& line) noexcept {
  const std::uint64_t now = monotonic_ns();
  if (users_.size() >= kUsersMax && !users_.contains(uid)) {
    std::erase_if(users_, [&](const auto& user) { return now - user.second.since_ns > kPeriodNs; });
    if (users_.size() >= kUsersMax) uid = users_.begin()->first;
  }
  User& user = users_[uid];
  if (now - user.since_ns > kPeriodNs) {
    if (user.left_out != 0)
      log::warn("user {}: {} more lines of this kind left out", uid, user.left_out);
    user = {.since_ns = now, .lines = 0, .left_out = 0};
  }
  if (user.lines == kLinesMax) {
    ++user.left_out;
    return;
  }
  ++user.lines;
  log::warn("{}", line);
}

}  // namespace ramfold::daemon
