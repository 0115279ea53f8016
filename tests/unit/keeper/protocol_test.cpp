// SPDX-License-Identifier: GPL-2.0-or-later
#include "keeper/protocol.hpp"

#include <catch2/catch.hpp>
#include <cstring>
#include <random>
#include <string>

using namespace ramfold::keeper;

namespace {

std::span<const std::byte> first(const Buffer& buffer, std::size_t length) {
  return std::span(buffer).first(length);
}

}  // namespace

TEST_CASE("names are of the small alphabet and bounded") {
  CHECK(valid_name("7.ram0"));
  CHECK(valid_name(std::string(kNameMax, 'a')));
  for (const char* bad : {"", "A", "a b", "a:b", "a/b", "a\n", "\xc3\xa4"})
    CHECK_FALSE(valid_name(bad));
  CHECK_FALSE(valid_name(std::string(kNameMax + 1, 'a')));
  CHECK(valid_prefix("7."));
  CHECK_FALSE(valid_prefix("7"));
  CHECK_FALSE(valid_prefix(""));
}

TEST_CASE("a list comes back as it was written") {
  Buffer buffer{};
  const std::array items{Item{Kind::kept, "1.uffd"}, Item{Kind::watch, "1."}};
  const std::size_t length = write_list(buffer, Type::keep, 77, items);
  const auto parsed = parse(first(buffer, length), 2);
  REQUIRE(parsed);
  CHECK(parsed->type == Type::keep);
  CHECK(parsed->sequence == 77);
  REQUIRE(parsed->count == 2);
  CHECK(parsed->items[0].name == "1.uffd");
  CHECK(parsed->items[1].kind == Kind::watch);
  CHECK(parsed->items[1].name == "1.");
}

TEST_CASE("an acknowledgement carries code, count and text, cut to fit") {
  Buffer buffer{};
  const std::size_t length = write_ack(buffer, 3, EEXIST, 5, std::string(1000, 'x'));
  const auto parsed = parse(first(buffer, length), 0);
  REQUIRE(parsed);
  CHECK(parsed->code == EEXIST);
  CHECK(parsed->acked == 5);
  CHECK(parsed->text == std::string(kTextMax - 1, 'x'));
}

TEST_CASE("descriptors must match the names") {
  Buffer buffer{};
  const Item item{Kind::kept, "a"};
  const std::size_t keep = write_list(buffer, Type::keep, 1, {&item, 1});
  CHECK_FALSE(parse(first(buffer, keep), 0));
  CHECK(parse(first(buffer, keep), 1));
  CHECK_FALSE(parse(first(buffer, keep), 2));
  const std::size_t drop = write_list(buffer, Type::drop, 1, {&item, 1});
  CHECK(parse(first(buffer, drop), 0));
  CHECK_FALSE(parse(first(buffer, drop), 1));
  const std::size_t hello = write_hello(buffer, 1);
  CHECK_FALSE(parse(first(buffer, hello), 1));
}

TEST_CASE("a prefix that is none drops nothing") {
  Buffer buffer{};
  for (const char* bad : {"", "1", "1.uffd"}) {
    const Item item{Kind::kept, bad};
    CHECK_FALSE(parse(first(buffer, write_list(buffer, Type::drop_prefix, 1, {&item, 1})), 0));
  }
}

TEST_CASE("a type of another version is told apart from a broken message") {
  Buffer buffer{};
  const std::size_t length = write_hello(buffer, 9);
  const std::uint16_t type = 1000;
  std::memcpy(buffer.data() + offsetof(Header, type), &type, sizeof type);
  const auto parsed = parse(first(buffer, length), 3);
  REQUIRE(parsed);
  CHECK_FALSE(parsed->known);
  CHECK(parsed->sequence == 9);
}

TEST_CASE("every cut, and every changed byte of the framing, is refused") {
  Buffer buffer{};
  const std::array items{Item{Kind::kept, "abc"}, Item{Kind::kept, "abd"}};
  const std::size_t length = write_list(buffer, Type::keep, 1, items);
  for (std::size_t cut = 0; cut < length; ++cut) CHECK_FALSE(parse(first(buffer, cut), 2));
  const auto refused_at = [&](std::size_t at) {
    Buffer changed = buffer;
    changed[at] ^= std::byte{0x80};
    return !parse(first(changed, length), 2);
  };
  for (const std::size_t at : {0u, 3u, 8u, 11u}) CHECK(refused_at(at));  // magic, length
  const std::size_t names = sizeof(Header) + sizeof(List);
  for (std::size_t at = sizeof(Header); at < names + sizeof(Name); ++at) CHECK(refused_at(at));
}

TEST_CASE("random bytes behind a good header never break a bound") {
  const unsigned seed = std::random_device{}();
  INFO("seed " << seed);
  std::mt19937 random(seed);
  for (int round = 0; round < 20'000; ++round) {
    Buffer buffer{};
    const std::array items{Item{Kind::kept, "abc"}, Item{Kind::watch, "abd."}};
    std::size_t length = write_list(buffer, Type::keep, 1, items);
    for (auto i = random() % 6; i > 0; --i) {
      buffer[random() % length] = static_cast<std::byte>(random());
    }
    if (random() % 4 == 0) length = random() % (buffer.size() + 1);
    const auto parsed = parse(first(buffer, length), random() % 4);
    if (!parsed) continue;
    REQUIRE(parsed->count <= kBatchMax);
    for (const Item& item : std::span(parsed->items).first(parsed->count)) {
      REQUIRE(item.name.size() <= kNameMax);
    }
  }
}
