// SPDX-License-Identifier: GPL-2.0-or-later
// How much memory for page tables, bitmaps and notes the VMs of one owner may take.
// Threads: values.
#pragma once

#include "base/owner_share.hpp"
#include "base/types.hpp"

namespace ramfold::daemon {

// Those of all VMs may take 1/kTablesOneIn of the host's RAM, which is enough for VMs with 36 times
// the host's RAM. One owner may have half of what the others have left.
inline constexpr std::uint64_t kTablesOneIn = 8;
constexpr OwnerShare tables_share(ByteCount host_ram) noexcept {
  return {host_ram.value / kTablesOneIn, OwnerShare::kHalf};
}

}  // namespace ramfold::daemon
