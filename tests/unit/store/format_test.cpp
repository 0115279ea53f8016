// SPDX-License-Identifier: GPL-2.0-or-later
// The worked example of docs/store-format.md, byte for byte.
#include <catch2/catch.hpp>
#include <cstring>

#include "pages.hpp"
#include "store/codec/lz4.hpp"
#include "store/hash.hpp"
#include "store/layout.hpp"

using namespace ramfold;
using namespace ramfold::store;

namespace {

PageCopy page_of_2a() {
  PageCopy page;
  page.bytes.fill(std::byte{0x2a});
  return page;
}

}  // namespace

TEST_CASE("the superblock of the example") {
  Superblock block{};
  block.magic = kContentsMagic;
  block.version = kFormatVersion;
  block.arena_bytes = std::uint64_t{1} << 30;
  block.contents_max = contents_max_for(ByteCount{block.arena_bytes});
  block.store_id = 0x1122334455667788;
  CHECK(block.contents_max == 0x0100'0000);
  CHECK(ContentsLayout(block.contents_max).end == 369'102'848);
  CHECK(plain_checksum({reinterpret_cast<const std::byte*>(&block), 32}) == 0x05a0403b6e2caa79);
  CHECK(self_checked(4096) == 0xffffefff00001000);
  CHECK(std::string_view(reinterpret_cast<const char*>(&block.magic), 8) == "RFLDCNT1");
}

TEST_CASE("the content of the example") {
  const PageCopy page = page_of_2a();
  CHECK(PageHasher(0x0123456789abcdef)(page.bytes.data()) == 0x9140dc945198c529);
  CHECK(bound_to(ContentId{1}, 0x9140dc945198c529) == 0x0f77a52d2ed2b93c);
  std::array<std::byte, 64> block;
  REQUIRE(lz4::encode(page, block) == 26);
  PageCopy decoded;
  REQUIRE(lz4::decode(std::span(block).first(26), decoded.bytes.data()));
  CHECK(decoded.bytes == page.bytes);

  const Where where({kSlabBytes + 3 * 32, 26}, Form::lz4);
  CHECK(where.bits() == 0x1402019000002006);
  CHECK(where.sound(ByteCount{1u << 30}));
  CHECK(where.extent().offset == 131168);
  CHECK(where.extent().length == 26);
  CHECK(where.form() == Form::lz4);
  CHECK(Where::in_pool(PoolSlot{1}).bits() == 0x1481fff000000100);
  CHECK(4096 + sizeof(Header) == 4112);
  CHECK(ContentsLayout(0x0100'0000).groups + 2 == 268'439'554);
}

TEST_CASE("every field of a where is checked against what this version writes") {
  const ByteCount arena{1u << 30};
  const std::uint64_t good = Where({0, 100}, Form::lz4).bits();
  CHECK(Where(good).sound(arena));
  CHECK_FALSE(Where().sound(arena));
  for (const unsigned bit : {49u, 51u, 54u, 55u, 56u, 57u, 58u, 59u, 60u, 62u, 63u}) {
    CHECK_FALSE(Where(good ^ std::uint64_t{1} << bit).sound(arena));
  }
  CHECK_FALSE(Where({arena.value, 32}, Form::lz4).sound(arena));
  CHECK_FALSE(Where({kSlabBytes - 16, 17}, Form::lz4).sound(arena));
  CHECK_FALSE(Where({0, 4095}, Form::raw).sound(arena));
  CHECK_FALSE(Where({0, 4096}, Form::lz4).sound(arena));
  CHECK(Where({kSlabBytes - 4096, 4096}, Form::raw).sound(arena));
  const Extent last{kArenaMax.value - kUnit, kUnit};
  CHECK(Where(last, Form::patch).sound(kArenaMax));
  CHECK(Where(last, Form::patch).extent().offset == last.offset);
  for (const Form form : {Form::lz4, Form::zstd, Form::delta}) {
    CHECK(Where({0, 100}, form, Transpose::words4).sound(arena));
    CHECK(Where({0, 100}, form, Transpose::words8).sound(arena));
    CHECK_FALSE(Where({0, 100}, form, Transpose{3}).sound(arena));
  }
  for (const Form form : {Form::patch, Form::mix, Form::mix_delta}) {
    CHECK(Where({0, 100}, form).sound(arena));
    CHECK_FALSE(Where({0, 100}, form, Transpose::words4).sound(arena));
  }
  CHECK_FALSE(Where({0, 4096}, Form::raw, Transpose::words8).sound(arena));
}

TEST_CASE("a place in the pool is a whole slot, not the head, and raw") {
  const ByteCount arena{1u << 30};
  const auto in_pool = [](Extent at, Form form) {
    return Where(Where(at, form).bits() | std::uint64_t{2} << 54);
  };
  CHECK(Where::in_pool(PoolSlot{1}).sound(arena));
  CHECK(Where::in_pool(PoolSlot{7}).slot() == PoolSlot{7});
  CHECK(in_pool({4096, 4096}, Form::raw).sound(arena));
  CHECK_FALSE(in_pool({0, 4096}, Form::raw).sound(arena));
  CHECK_FALSE(in_pool({4096 + 16, 4096}, Form::raw).sound(arena));
  CHECK_FALSE(in_pool({4096, 100}, Form::lz4).sound(arena));
  CHECK_FALSE(in_pool({4096, 100}, Form::raw).sound(arena));
  const PoolSlot last{(1u << 30) / 4096 - 1};
  CHECK(Where::in_pool(last).sound(arena));
  CHECK_FALSE(Where::in_pool(PoolSlot{last.value + 1}).sound(arena));
  CHECK(pool_bytes_for(kArenaMax) == kPoolMax);
  CHECK_FALSE(Where::in_pool(PoolSlot{4u << 20}).sound(kArenaMax));
}

TEST_CASE("the group of the example") {
  GroupEntry entry{};
  entry.seed = 0x0123456789abcdef;
  entry.name_length = 8;
  std::memcpy(entry.name, "uid-1000", 8);
  entry.pool_id = 0xfedcba9876543210;
  CHECK(plain_checksum({reinterpret_cast<const std::byte*>(&entry) + 8, 120}) ==
        0x9619e86b04e9063c);
}

TEST_CASE("the head of a pool") {
  PoolHead head{};
  head.magic = kPoolMagic;
  head.version = kFormatVersion;
  head.store_id = 0x1122334455667788;
  head.pool_id = 0xfedcba9876543210;
  CHECK(std::string_view(reinterpret_cast<const char*>(&head.magic), 8) == "RFLDPOL1");
  CHECK(plain_checksum({reinterpret_cast<const std::byte*>(&head), 32}) == 0x34cceb9eafe702d3);
}
