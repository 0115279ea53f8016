// SPDX-License-Identifier: GPL-2.0-or-later
// Decides which lines the log gets about why a VM is only observed: one line when the first reason
// has become another and has stood for a while, and one when the gate is open again. Looks that
// find the same reason again write nothing. A VM whose reasons change all the time gets few lines;
// a line that it does not get is written later, if it is still true then.
// Threads: one at a time.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>

#include "guest/facts.hpp"

namespace ramfold::daemon {

class ToldReason {
 public:
  // Some reasons end by themselves soon: an agent connects again after a restart of the daemon; the
  // first pass over all processes ends.
  static constexpr std::uint64_t kSettleNs = 10'000'000'000;
  static constexpr unsigned kLinesMax = 10;  // of one VM in kPeriodNs
  static constexpr std::uint64_t kPeriodNs = 3'600'000'000'000;

  // The gate is closed, and this is the first reason. True: write its line now.
  [[nodiscard]] bool closed(const guest::Reason& first, std::uint64_t settle_ns,
                            std::uint64_t now_ns) {
    Key key{first.code, first.text};
    if (standing_ != key) {
      standing_ = key;
      since_ns_ = now_ns;
    }
    if (told_ == key || now_ns - since_ns_ < settle_ns || !take_line(now_ns)) return false;
    told_ = std::move(key);
    is_open_due_ = true;
    return true;
  }
  // The gate is closed, and the log has a line about the first reason already.
  void closed_and_told(const guest::Reason& first) {
    standing_ = told_ = Key{first.code, first.text};
  }
  // The gate is open. True: write a line about that now.
  [[nodiscard]] bool opened(std::uint64_t now_ns) {
    standing_.reset();
    if (is_open_due_ && !take_line(now_ns)) return false;
    told_.reset();
    return std::exchange(is_open_due_, false);
  }

 private:
  using Key = std::pair<guest::ReasonCode, std::string>;

  bool take_line(std::uint64_t now_ns) noexcept {
    if (now_ns - period_began_ns_ >= kPeriodNs) {
      period_began_ns_ = now_ns;
      lines_ = 0;
    }
    if (lines_ == kLinesMax) return false;
    ++lines_;
    return true;
  }

  std::optional<Key> standing_;  // at the last look
  std::uint64_t since_ns_ = 0;   // of `standing_`
  std::optional<Key> told_;
  bool is_open_due_ = false;  // the log says that the VM is only observed, for a reason told here
  std::uint64_t period_began_ns_ = 0;
  unsigned lines_ = 0;
};

}  // namespace ramfold::daemon
