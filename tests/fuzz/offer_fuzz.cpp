// SPDX-License-Identifier: GPL-2.0-or-later
// libFuzzer target over everything an agent may send. Input: one byte with the number of
// descriptors, then the bytes of the message. The oracle below says again, by other means, what an
// accepted message must be; AddressSanitizer sees what is read beyond the bytes. tests/fuzz/fuzz.py
// builds and runs it.
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#include "base/check.hpp"
#include "daemon/agents/command_channel.hpp"
#include "guest/agent_messages.hpp"

using namespace ramfold;
using namespace ramfold::guest;

extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t max_size);

namespace {

__extension__ using Wide = unsigned __int128;

struct Interval {
  std::uint64_t device;
  std::uint64_t inode;
  Wide begin;
  Wide end;
};

// No two intervals of one file share a byte: sorted, each must end before the next begins.
void require_apart(std::vector<Interval> intervals) {
  std::ranges::sort(intervals, [](const Interval& a, const Interval& b) {
    if (a.device != b.device) return a.device < b.device;
    if (a.inode != b.inode) return a.inode < b.inode;
    return a.begin < b.begin;
  });
  for (std::size_t i = 1; i < intervals.size(); ++i) {
    const Interval& a = intervals[i - 1];
    const Interval& b = intervals[i];
    if (a.device == b.device && a.inode == b.inode) ENSURE(a.end <= b.begin);
  }
}

void check_accepted(const Offer& offer, std::size_t fd_count) {
  ENSURE(offer.wire.blocks >= 1);
  ENSURE(offer.wire.blocks <= RF_BLOCKS_MAX);
  // As the daemon uses them: descriptor 0 is the userfaultfd, descriptor 1 + i block i's file.
  std::array<int, 1 + RF_BLOCKS_MAX> descriptors;
  descriptors.fill(-1);
  for (std::size_t i = 0; i < std::min(fd_count, descriptors.size()); ++i) descriptors[i] = 1;
  std::vector<Interval> addresses;
  std::vector<Interval> files;
  Wide pages = 0;
  for (std::size_t i = 0; i < offer.blocks().size(); ++i) {
    const rf_block& b = offer.blocks()[i];
    ENSURE(descriptors[1 + i] == 1);
    ENSURE((b.size | b.address | b.offset) % kPageSize == 0);
    ENSURE(b.size != 0);
    ENSURE(Wide{b.address} + b.size <= kUserAddressEnd.value);
    ENSURE(Wide{b.offset} + b.size < (Wide{1} << 63));
    addresses.push_back({0, 0, b.address, Wide{b.address} + b.size});
    files.push_back({b.device, b.inode, b.offset, Wide{b.offset} + b.size});
    pages += b.size / kPageSize;
  }
  ENSURE(fd_count == 1 + offer.blocks().size());
  ENSURE(pages <= kOfferPagesMax.value);
  require_apart(std::move(addresses));
  require_apart(std::move(files));
}

// Of two commands under way an answer lets go of the one it names, or of none; never of one twice.
void check_answer(const Answered& answer) {
  std::array<int, 2> ends{};
  ENSURE(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends.data()) == 0);
  const sys::Fd ours(ends[0]);
  const sys::Fd agents(ends[1]);
  daemon::CommandChannel channel;
  channel.open(ours, 1);
  const PageRun run{PageIndex{0}, PageCount{1}};
  const std::array<AgentToken, 2> tokens{*channel.send(AgentAct::forget, {&run, 1}),
                                         *channel.send(AgentAct::forget, {&run, 1})};
  channel.answered(answer.wire);
  channel.answered(answer.wire);
  for (const AgentToken token : tokens) {
    const auto taken = channel.take(token, {});
    ENSURE(taken.has_value() == (token.value == answer.wire.token));
    if (taken) ENSURE((*taken == AgentAnswer::done) == (answer.wire.status == RF_ANSWER_DONE));
  }
}

void set_length(uint8_t* message, size_t size) {
  const auto length = static_cast<std::uint32_t>(size);
  std::memcpy(message + offsetof(rf_header, length), &length, sizeof length);
}

// Where the block's bytes are (not aligned), or null.
uint8_t* block_at(uint8_t* message, size_t size, unsigned index) {
  const size_t at = offsetof(rf_offer, block) + index * sizeof(rf_block);
  return at + sizeof(rf_block) <= size ? message + at : nullptr;
}

// Moves one field of an offer's block onto, or next to, another block's.
void bend_block(uint8_t* message, size_t size, unsigned seed) {
  rf_block from;
  rf_block to;
  const uint8_t* source = block_at(message, size, seed % RF_BLOCKS_MAX);
  uint8_t* target = block_at(message, size, (seed >> 4) % RF_BLOCKS_MAX);
  if (source == nullptr || target == nullptr) return;
  std::memcpy(&from, source, sizeof from);
  std::memcpy(&to, target, sizeof to);
  const std::uint64_t step = ((seed >> 8) % 3) * kPageSize;
  switch ((seed >> 12) % 6) {
    case 0: to.address = from.address + step; break;
    case 1: to.address = from.address + from.size - step; break;
    case 2: to.offset = from.offset + from.size - step; break;
    case 3:
      to.inode = from.inode;
      to.device = from.device;
      break;
    case 4: to.size = from.size + step; break;
    default: to.size = ~std::uint64_t{0} << (12 + seed % 50); break;
  }
  std::memcpy(target, &to, sizeof to);
}

}  // namespace

// Messages that fail at their length teach nothing about the rest: most mutants are given the right
// one.
extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size,
                                          unsigned int seed) {
  const bool bend = seed % 4 == 0 && size > 1;
  if (bend) {
    bend_block(data + 1, size - 1, seed / 4);
  } else {
    size = LLVMFuzzerMutate(data, size, max_size);
  }
  if (seed % 16 != 1 && size >= 1 + sizeof(rf_header)) set_length(data + 1, size - 1);
  return size;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  // A copy of exactly the message's size: reading one byte more is seen.
  const auto message = std::make_unique<std::byte[]>(size - 1);
  std::memcpy(message.get(), data + 1, size - 1);
  const std::size_t fd_count = data[0] % 40;
  const auto parsed = parse({message.get(), size - 1}, fd_count);
  if (!parsed) {
    ENSURE(parsed.error().code != 0);
    return 0;
  }
  if (const auto* offer = std::get_if<Offer>(&*parsed)) {
    check_accepted(*offer, fd_count);
  } else {
    ENSURE(fd_count == 0);
  }
  if (const auto* answer = std::get_if<Answered>(&*parsed)) check_answer(*answer);
  if (const auto* hello = std::get_if<Hello>(&*parsed)) {
    ENSURE(hello->version <= RF_VERSION_MAX);
    ENSURE(hello->version == 0 || hello->version >= hello->wire.version_min);
  }
  return 0;
}
