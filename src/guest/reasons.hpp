// SPDX-License-Identifier: GPL-2.0-or-later
// Builds the list of reasons of one VM. Only for facts*.cpp; others use Facts::reasons.
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
  // Adds a reason with the remedy of its code. Ignores a reason that the list has already, and
  // reasons beyond kReasonsMax (one is enough not to fold).
  void add(ReasonCode code, std::string_view text);
  // The same with a remedy of its own.
  void add(Reason reason);
  bool empty() const noexcept { return reasons_.empty(); }
  std::vector<Reason> take() { return std::exchange(reasons_, {}); }

 private:
  std::vector<Reason> reasons_;
};

// Makes a name from a hostile process fit for a terminal and a log (base/printable.hpp), and cuts
// it if it is long.
std::string printable(std::string_view name);

}  // namespace ramfold::guest
