// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/report/status_line.hpp"

#include <fmt/format.h>

namespace ramfold::daemon {

std::string status_line(std::size_t vms, const std::vector<control::Reason>& reasons) {
  return fmt::format(
      "{} VM{}, {}; new version or configuration: systemctl reload ramfold; end: ramfold off first",
      vms, vms == 1 ? "" : "s",
      reasons.empty() ? "folding" : "not folding: " + reasons.front().text);
}

}  // namespace ramfold::daemon
