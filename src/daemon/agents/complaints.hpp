// SPDX-License-Identifier: GPL-2.0-or-later
// Log lines that other users can cause: a few per user and period, then one line with the number of
// lines left out.
// Threads: one.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <string>

namespace ramfold::daemon {

class Complaints {
 public:
  static constexpr unsigned kLinesMax = 10;  // per user and kPeriodNs
  static constexpr std::uint64_t kPeriodNs = 10'000'000'000;
  static constexpr std::size_t kUsersMax = 256;  // more users share one budget

  void warn(uid_t uid, const std::string& line) noexcept;

 private:
  struct User {
    std::uint64_t since_ns = 0;
    unsigned lines = 0;
    std::uint64_t left_out = 0;
  };
  std::map<uid_t, User> users_;
};

}  // namespace ramfold::daemon
