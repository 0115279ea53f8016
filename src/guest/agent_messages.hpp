// SPDX-License-Identifier: GPL-2.0-or-later
// Parses the messages of agents (agent/wire.h). The agent is treated as hostile: the parser reads
// nothing beyond the bytes given, and what it returns has been checked as far as the bytes alone
// tell; guest/attach_check.hpp checks an offer against the process that made it. Pure; fuzzed by
// tests/fuzz/offer_fuzz.cpp. docs/agent-protocol.md explains the protocol.
// Threads: values.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <variant>

#include "agent/wire.h"
#include "base/result.hpp"
#include "base/types.hpp"

namespace ramfold::guest {

struct Hello {
  rf_hello wire;
  std::uint16_t version = 0;  // the newest both speak; 0: none, to be answered with RF_REFUSED
};
// 1 <= wire.blocks <= RF_BLOCKS_MAX; the message has wire.blocks + 1 descriptors; check_layout()
// holds.
struct Offer {
  rf_offer wire;

  std::span<const rf_block> blocks() const noexcept { return {wire.block, wire.blocks}; }
};
struct Ready {
  rf_ready wire;
};
struct Hold {
  rf_hold wire;
};
struct Changed {
  rf_hold wire;
};
struct Unfold {
  rf_unfold wire;
};
struct Fenced {
  rf_bare wire;
};
struct Answered {
  rf_answer wire;
};
// A type this version does not know, sent as skippable.
struct Skipped {
  std::uint16_t type = 0;
};
using AgentMessage =
    std::variant<Hello, Offer, Ready, Hold, Changed, Unfold, Fenced, Answered, Skipped>;

// One message as it was received, with `fd_count` descriptors. An Error (EPROTO) ends the
// connection.
Result<AgentMessage> parse(std::span<const std::byte> bytes, std::size_t fd_count);

// No VM has more RAM than this. Bounds every table that is made for an offer.
inline constexpr PageCount kOfferPagesMax{std::uint64_t{1} << 31};  // 8 TiB
// User addresses end here with four-level page tables; QEMU does not ask for more.
inline constexpr HostVirt kUserAddressEnd{0x7fff'ffff'f000};

// Sizes, alignment, overflow and overlap of the blocks, in QEMU's address space and within each
// file.
Status check_layout(std::span<const rf_block> blocks);

}  // namespace ramfold::guest
