// SPDX-License-Identifier: GPL-2.0-or-later
#include "guest/agent_messages.hpp"

#include <catch2/catch.hpp>
#include <cstring>
#include <vector>

using namespace ramfold;
using namespace ramfold::guest;

namespace {

template <typename Wire>
Wire wire(std::uint16_t type) {
  Wire w{};
  w.h.magic = RF_MAGIC;
  w.h.type = type;
  w.h.length = sizeof(Wire);
  return w;
}

template <typename Wire>
std::vector<std::byte> bytes_of(const Wire& w, std::size_t extra = 0) {
  std::vector<std::byte> bytes(sizeof(Wire) + extra);
  std::memcpy(bytes.data(), &w, sizeof w);
  const auto length = static_cast<std::uint32_t>(bytes.size());
  std::memcpy(bytes.data() + offsetof(rf_header, length), &length, sizeof length);
  return bytes;
}

rf_hello hello(std::uint16_t low = 1, std::uint16_t high = 1) {
  auto w = wire<rf_hello>(RF_HELLO);
  w.version_min = low;
  w.version_max = high;
  return w;
}

constexpr std::uint64_t kMiB = 1u << 20;
rf_offer offer() {
  auto w = wire<rf_offer>(RF_OFFER);
  w.blocks = 2;
  w.block[0] = {0x7f0000000000, 64 * kMiB, 0, 1, 10};
  w.block[1] = {0x7f0004000000, 32 * kMiB, 0, 1, 11};
  return w;
}

template <typename Wire>
int code(const Wire& w, std::size_t fds = 0) {
  const auto message = parse(bytes_of(w), fds);
  return message ? 0 : message.error().code;
}

}  // namespace

TEST_CASE("each message of the agent's is taken") {
  CHECK(std::holds_alternative<Hello>(*parse(bytes_of(hello()), 0)));
  CHECK(std::holds_alternative<Offer>(*parse(bytes_of(offer()), 3)));
  CHECK(std::holds_alternative<Ready>(*parse(bytes_of(wire<rf_ready>(RF_READY)), 0)));
  CHECK(std::holds_alternative<Hold>(*parse(bytes_of(wire<rf_hold>(RF_HOLD)), 0)));
  CHECK(std::holds_alternative<Changed>(*parse(bytes_of(wire<rf_hold>(RF_CHANGED)), 0)));
  CHECK(std::holds_alternative<Unfold>(*parse(bytes_of(wire<rf_unfold>(RF_UNFOLD)), 0)));
  CHECK(std::holds_alternative<Fenced>(*parse(bytes_of(wire<rf_bare>(RF_FENCED)), 0)));
  auto answer = wire<rf_answer>(RF_ANSWER);
  answer.token = 7;
  CHECK(std::get<Answered>(*parse(bytes_of(answer), 0)).wire.token == 7);
  const auto message = parse(bytes_of(offer()), 3);
  const auto& taken = std::get<Offer>(*message);
  REQUIRE(taken.blocks().size() == 2);
  CHECK(taken.blocks()[1].inode == 11);
}

TEST_CASE("a longer message of a later version is taken, a shorter one is not") {
  CHECK(parse(bytes_of(hello(), 64), 0));
  CHECK(parse(bytes_of(offer(), 64), 3));
  std::vector<std::byte> bytes = bytes_of(offer());
  while (bytes.size() > sizeof(rf_header)) {
    bytes.pop_back();
    const auto length = static_cast<std::uint32_t>(bytes.size());
    std::memcpy(bytes.data() + offsetof(rf_header, length), &length, sizeof length);
    CHECK(parse(bytes, 3).error().code == EPROTO);
  }
  bytes.pop_back();
  CHECK(parse(bytes, 0).error().code == EPROTO);
  CHECK(parse({}, 0).error().code == EPROTO);
}

TEST_CASE("the length must be what arrived, and bounded") {
  auto w = hello();
  w.h.length = sizeof w + 1;
  std::vector<std::byte> bytes(sizeof w);
  std::memcpy(bytes.data(), &w, sizeof w);
  CHECK(parse(bytes, 0).error().code == EPROTO);
  CHECK(parse(bytes_of(hello(), RF_MESSAGE_MAX - sizeof w), 0));
  CHECK_FALSE(parse(bytes_of(hello(), RF_MESSAGE_MAX - sizeof w + 1), 0));
}

TEST_CASE("another protocol is refused") {
  auto w = hello();
  w.h.magic ^= 1;
  CHECK(code(w) == EPROTO);
}

TEST_CASE("types: unknown ones only when skippable, the daemon's never") {
  auto unknown = wire<rf_bare>(4711);
  CHECK(code(unknown) == EPROTO);
  unknown.h.flags = RF_FLAG_SKIPPABLE;
  const auto skipped = parse(bytes_of(unknown), 0);
  REQUIRE(skipped);
  CHECK(std::get<Skipped>(*skipped).type == 4711);
  for (const std::uint16_t type : {RF_WELCOME, RF_ATTACHED, RF_UNFOLDED, RF_UNFOLDING, RF_REFUSED,
                                   RF_DETACHED, RF_FENCE, RF_COMMAND}) {
    auto w = wire<rf_refused>(type);
    w.h.flags = RF_FLAG_SKIPPABLE;
    CHECK(code(w) == EPROTO);
  }
}

TEST_CASE("the newest version both speak") {
  const auto version = [](std::uint16_t low, std::uint16_t high) {
    return std::get<Hello>(*parse(bytes_of(hello(low, high)), 0)).version;
  };
  CHECK(version(1, 1) == 1);
  CHECK(version(1, 9) == RF_VERSION_MAX);
  CHECK(version(0, 1) == 1);
  CHECK(version(RF_VERSION_MAX + 1, RF_VERSION_MAX + 1) == 0);
  CHECK(version(0, 0) == 0);
  CHECK(code(hello(2, 1)) == EPROTO);
}

TEST_CASE("descriptors: one more than the blocks, and only with an offer") {
  CHECK(code(offer(), 3) == 0);
  for (const std::size_t fds : {0u, 1u, 2u, 4u, 32u}) CHECK(code(offer(), fds) == EPROTO);
  CHECK(code(hello(), 1) == EPROTO);
  auto none = offer();
  none.blocks = 0;
  CHECK(code(none, 1) == EPROTO);
  auto many = offer();
  many.blocks = RF_BLOCKS_MAX + 1;
  CHECK(code(many, RF_BLOCKS_MAX + 2) == EPROTO);
}

TEST_CASE("an offer's blocks: whole pages, within bounds, apart") {
  rf_offer w = offer();
  rf_block& block = w.block[1];
  SECTION("empty") { block.size = 0; }
  SECTION("half a page") { block.size += 2048; }
  SECTION("an address within a page") { block.address += 1; }
  SECTION("an offset within a page") { block.offset = 512; }
  SECTION("address zero") { block.address = 0; }
  SECTION("the kernel's addresses") { block.address = 0xffff'8000'0000'0000; }
  SECTION("beyond the end of the user's addresses") { block.size = kUserAddressEnd.value; }
  SECTION("an end that wraps") { block.size = ~std::uint64_t{0} << 12; }
  SECTION("an offset that wraps") { block.offset = ~std::uint64_t{0} << 12; }
  SECTION("an offset no file has") { block.offset = std::uint64_t{1} << 62; }
  SECTION("the same addresses") { block.address = w.block[0].address; }
  SECTION("addresses that overlap by a page") {
    block.address = w.block[0].address + w.block[0].size - kPageSize;
  }
  SECTION("around the first one") {
    block.address = w.block[0].address - kPageSize;
    block.size = w.block[0].size + 2 * kPageSize;
  }
  SECTION("the same part of one file") { block.inode = w.block[0].inode; }
  SECTION("an overlapping part of one file") {
    block.inode = w.block[0].inode;
    block.offset = w.block[0].size - kPageSize;
  }
  SECTION("more RAM than any VM") {
    w.block[0].address = kPageSize;
    w.block[0].size = kOfferPagesMax.value * kPageSize;
  }
  CHECK(code(w, 3) == EPROTO);
}

TEST_CASE("adjacent blocks and separate parts of one file are fine") {
  rf_offer w = offer();
  w.block[1].inode = w.block[0].inode;
  w.block[1].offset = w.block[0].size;
  w.block[1].address = w.block[0].address + w.block[0].size;
  CHECK(code(w, 3) == 0);
  w.block[1].device = 2;
  w.block[1].offset = 0;
  CHECK(code(w, 3) == 0);
}
