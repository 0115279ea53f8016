// SPDX-License-Identifier: GPL-2.0-or-later
// Building the list of reasons of one VM. For the facts*.cpp only; users see Facts::reasons.
// Threads: values.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "guest/facts.hpp"

namespace ramfold::guest {

class ReasonList {
 public:
  // Adds a reason with its code's remedy; the same text twice counts once, more than kReasonsMax
  // are left out (one is enough not to fold).
  void add(ReasonCode code, std::string_view text);
  bool empty() const noexcept { return reasons_.empty(); }
  std::vector<Reason> take() { return std::exchange(reasons_, {}); }

 private:
  std::vector<Reason> reasons_;
};

// A name from a hostile process, fit for a terminal and a log (base/printable.hpp); long ones are
// cut.
std::string printable(std::string_view name);

}  // namespace ramfold::guest
