// SPDX-License-Identifier: GPL-2.0-or-later
#include "guest/agent_messages.hpp"

#include <algorithm>
#include <cstring>

// Test-only builds leave one check out, to prove that the fuzzer would find it: 1 length, 2
// overlap, 3 descriptor count.
#ifndef RAMFOLD_SEEDED_BUG
#define RAMFOLD_SEEDED_BUG 0
#endif

namespace ramfold::guest {
namespace {

constexpr std::uint64_t kFileEndMax = std::uint64_t{1} << 62;  // offsets are signed in the kernel

bool is_whole_pages(std::uint64_t n) noexcept { return n % kPageSize == 0; }

// A private, aligned copy of the message. A longer one, of a later version, is cut.
template <typename Wire>
Result<Wire> read_as(std::span<const std::byte> bytes) {
  if (RAMFOLD_SEEDED_BUG != 1 && bytes.size() < sizeof(Wire)) {
    return fail("a message is shorter than its type", EPROTO);
  }
  Wire wire;
  std::memcpy(&wire, bytes.data(), sizeof wire);
  return wire;
}

template <typename Message>
Result<AgentMessage> message_of(std::span<const std::byte> bytes) {
  auto wire = read_as<decltype(Message::wire)>(bytes);
  if (!wire) return std::unexpected(std::move(wire.error()));
  return Message{*wire};
}

Result<AgentMessage> hello_of(std::span<const std::byte> bytes) {
  const auto wire = read_as<rf_hello>(bytes);
  if (!wire) return std::unexpected(wire.error());
  if (wire->version_min > wire->version_max) {
    return fail("an agent's oldest version is newer than its newest", EPROTO);
  }
  const std::uint16_t newest = std::min<std::uint16_t>(wire->version_max, RF_VERSION_MAX);
  const bool common = newest >= std::max<std::uint16_t>(wire->version_min, RF_VERSION_MIN);
  return Hello{*wire, common ? newest : std::uint16_t{0}};
}

Result<AgentMessage> offer_of(std::span<const std::byte> bytes, std::size_t fd_count) {
  const auto wire = read_as<rf_offer>(bytes);
  if (!wire) return std::unexpected(wire.error());
  const Offer offer{*wire};
  if (wire->blocks == 0 || wire->blocks > RF_BLOCKS_MAX) {
    return fail("an offer has no RAM blocks, or too many", EPROTO);
  }
  if (RAMFOLD_SEEDED_BUG != 3 && fd_count != std::size_t{1} + wire->blocks) {
    return fail("an offer's descriptors are not a userfaultfd and one for each block", EPROTO);
  }
  if (Status layout = check_layout(offer.blocks()); !layout) {
    return std::unexpected(std::move(layout.error()));
  }
  return offer;
}

Status check_block(const rf_block& block) {
  if (block.size == 0 || !is_whole_pages(block.size) || !is_whole_pages(block.address) ||
      !is_whole_pages(block.offset)) {
    return fail("a RAM block is not made of whole pages", EPROTO);
  }
  if (block.address == 0 || block.address >= kUserAddressEnd.value ||
      block.size > kUserAddressEnd.value - block.address) {
    return fail("a RAM block lies outside the user's address space", EPROTO);
  }
  if (block.offset >= kFileEndMax || block.size > kFileEndMax - block.offset) {
    return fail("a RAM block lies outside any file", EPROTO);
  }
  return {};
}

// [a, a + a_size) and [b, b + b_size) share a byte. REQUIRES: neither sum overflows.
bool overlap(std::uint64_t a, std::uint64_t a_size, std::uint64_t b,
             std::uint64_t b_size) noexcept {
  return a < b + b_size && b < a + a_size;
}

}  // namespace

Status check_layout(std::span<const rf_block> blocks) {
  std::uint64_t pages = 0;
  for (std::size_t i = 0; i < blocks.size(); ++i) {
    const rf_block& block = blocks[i];
    if (Status status = check_block(block); !status) return status;
    pages += block.size / kPageSize;  // below 2^35 each, RF_BLOCKS_MAX of them
    for (const rf_block& other : blocks.first(RAMFOLD_SEEDED_BUG == 2 ? i / 2 : i)) {
      if (overlap(block.address, block.size, other.address, other.size)) {
        return fail("two RAM blocks overlap", EPROTO);
      }
      if (block.device == other.device && block.inode == other.inode &&
          overlap(block.offset, block.size, other.offset, other.size)) {
        return fail("two RAM blocks share a part of one file", EPROTO);
      }
    }
  }
  if (pages > kOfferPagesMax.value) return fail("an offer has more RAM than any VM", EPROTO);
  return {};
}

Result<AgentMessage> parse(std::span<const std::byte> bytes, std::size_t fd_count) {
  if (bytes.size() < sizeof(rf_header)) return fail("a message is shorter than its header", EPROTO);
  rf_header header;
  std::memcpy(&header, bytes.data(), sizeof header);
  if (header.magic != RF_MAGIC) return fail("a message is not of this protocol", EPROTO);
  if (bytes.size() > RF_MESSAGE_MAX || header.length != bytes.size()) {
    return fail("a message's length is not the one in its header", EPROTO);
  }
  if (fd_count != 0 && header.type != RF_OFFER) {
    return fail("descriptors came with a message that has none", EPROTO);
  }
  switch (header.type) {
    case RF_HELLO: return hello_of(bytes);
    case RF_OFFER: return offer_of(bytes, fd_count);
    case RF_READY: return message_of<Ready>(bytes);
    case RF_HOLD: return message_of<Hold>(bytes);
    case RF_CHANGED: return message_of<Changed>(bytes);
    case RF_UNFOLD: return message_of<Unfold>(bytes);
    case RF_FENCED: return message_of<Fenced>(bytes);
    case RF_ANSWER: return message_of<Answered>(bytes);
    case RF_WELCOME:
    case RF_ATTACHED:
    case RF_UNFOLDED:
    case RF_UNFOLDING:
    case RF_REFUSED:
    case RF_DETACHED:
    case RF_FENCE:
    case RF_COMMAND: return fail("an agent sent what only the daemon says", EPROTO);
    default: break;
  }
  if ((header.flags & RF_FLAG_SKIPPABLE) == 0) {
    return fail("a message of an unknown type that may not be skipped", EPROTO);
  }
  return Skipped{header.type};
}

}  // namespace ramfold::guest
