// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/report/held_pages.hpp"

#include <fmt/format.h>

namespace ramfold::daemon {

std::optional<control::Reason> why_pages_stay(const control::PagesView& pages,
                                              control::GateState gate) {
  constexpr std::uint64_t kShare = 8;
  if (pages.held.value == 0 || pages.held.value * kShare < pages.resident.value)
    return std::nullopt;
  return control::Reason{
      "held-pages", fmt::format("{} pages are held by a device", pages.held.value),
      gate == control::GateState::closed
          ? "another reason tells why nothing of the VM is folded, and what to do"
          : "nothing to do: they are folded when the device lets go. Buffers that QEMU registers "
            "with io_uring are held for good"};
}

}  // namespace ramfold::daemon
