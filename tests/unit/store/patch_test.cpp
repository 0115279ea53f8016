// SPDX-License-Identifier: GPL-2.0-or-later
#include "store/patch/patch.hpp"

#include <catch2/catch.hpp>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "pages.hpp"
#include "plain_patch.hpp"
#include "random.hpp"

using namespace ramfold;
using namespace ramfold::store;
using namespace ramfold::store::test;

namespace {

using Patch = std::vector<std::byte>;

std::uint64_t word_of(const PageCopy& page, std::size_t at) {
  std::uint64_t word = 0;
  std::memcpy(&word, &page.bytes[at], sizeof word);
  return word;
}
void set_word(PageCopy& page, std::size_t at, std::uint64_t word) {
  std::memcpy(&page.bytes[at], &word, sizeof word);
}

Patch encoded(const PageCopy& page, const PageCopy& reference) {
  Patch patch(patch::kPatchMax);
  patch.resize(patch::encode(page, reference, patch));
  REQUIRE_FALSE(patch.empty());
  return Patch(patch.begin(), patch.end());  // without slack, for the sanitizer
}

void require_same_page(const Patch& patch, const PageCopy& reference, const PageCopy& page) {
  const auto out = std::make_unique<PageCopy>();
  REQUIRE(patch::decode(patch, reference.bytes.data(), out->bytes.data()));
  REQUIRE(out->bytes == page.bytes);
  const auto plain = PlainPatchReader::read(patch, reference);
  REQUIRE(plain.has_value());
  REQUIRE(std::memcmp(plain->data(), page.bytes.data(), kPageSize) == 0);
}

// The real reader and the plain one agree; returns whether it is a patch.
bool readers_agree(const Patch& patch, const PageCopy& reference) {
  const auto out = std::make_unique<PageCopy>();
  const bool ok = patch::decode(patch, reference.bytes.data(), out->bytes.data());
  const auto plain = PlainPatchReader::read(patch, reference);
  REQUIRE(ok == plain.has_value());
  if (ok) REQUIRE(std::memcmp(plain->data(), out->bytes.data(), kPageSize) == 0);
  return ok;
}

Patch patch_of(std::initializer_list<int> bytes) {
  Patch patch;
  for (const int byte : bytes) patch.push_back(static_cast<std::byte>(byte));
  return patch;
}

PageCopy pointers() {
  PageCopy page;
  for (std::size_t i = 0; i < kPageSize / 8; ++i)
    set_word(page, 8 * i, 0x7f55'0000'0000u + 0x1000 * i);
  return page;
}

PageCopy random_reference(Random& random) {
  switch (random.below(4)) {
    case 0: return pointers();
    case 1: return page_of(random.next(), kPageSize);
    case 2: return PageCopy{};
    default: return page_of(random.next());
  }
}

// A page made of what guests do to one: moved pointers, edits, shifts, repeats, other data.
PageCopy edited(const PageCopy& reference, Random& random) {
  PageCopy page = reference;
  const std::uint64_t amounts[3] = {random.next() << 12, random.next() << 20 & 0xffff'ffff,
                                    random.next()};
  for (std::uint64_t n = random.below(30); n-- > 0;) {
    const std::size_t at = random.below(kPageSize);
    const std::size_t length =
        std::min(kPageSize - at, random.below(random.one_in(3) ? 900 : 40) + 1);
    switch (random.below(5)) {
      case 0:
        for (std::size_t i = at; i + 8 <= at + length; i += 8) {
          set_word(page, i, word_of(page, i) + amounts[random.below(3)]);
        }
        break;
      case 1:
        for (std::size_t i = 0; i < length; ++i)
          page.bytes[at + i] = static_cast<std::byte>(random.next());
        break;
      case 2:
        std::memmove(&page.bytes[at], &page.bytes[random.below(kPageSize - length + 1)], length);
        break;
      case 3:
        std::memcpy(&page.bytes[at], &reference.bytes[random.below(kPageSize - length + 1)],
                    length);
        break;
      default:
        for (std::size_t i = 0; i < length; ++i) {
          page.bytes[at + i] = at + i < 3 ? std::byte{1} : page.bytes[at + i - 3];
        }
        break;
    }
  }
  return page;
}

// Steps at random, most of them possible.
Patch random_patch(Random& random) {
  Patch patch;
  for (std::uint64_t n = random.below(60) + 1; n-- > 0;) {
    patch.push_back(static_cast<std::byte>(random.next()));
    for (std::uint64_t more = random.below(6); more-- > 0;) {
      patch.push_back(static_cast<std::byte>(random.one_in(2) ? random.below(32) : random.next()));
    }
  }
  return patch;
}

}  // namespace

TEST_CASE("patch: the example of the document") {
  const PageCopy reference = pointers();
  PageCopy page = reference;
  for (std::size_t i = 0; i < 5; ++i)
    set_word(page, 8 * i, word_of(reference, 8 * i) + 0x1'2345'0000u);
  for (std::size_t i = 0; i < 4; ++i) std::memcpy(&page.bytes[40 + 7 * i], "ramfold", 7);
  std::memcpy(&page.bytes[68], &reference.bytes[2048], 100);
  const Patch patch =
      patch_of({0xbe, 0x45, 0x23, 0x01, 0x05, 0xa5, 0xde, 0xd6, 0x72, 0x61, 0x6d, 0x66,
                0x6f, 0x6c, 0x64, 0xef, 0x06, 0x0b, 0xfc, 0x44, 0x08, 0xf0, 0x00, 0x10});
  REQUIRE(patch.size() == 24);
  require_same_page(patch, reference, page);
  const Patch ours = encoded(page, reference);
  require_same_page(ours, reference, page);
  CHECK(ours == patch);
}

TEST_CASE("patch: edited pages come back") {
  CAPTURE(seed_of_run());
  Random random(seed_of_run());
  for (int i = 0; i < 4000; ++i) {
    const PageCopy reference = random_reference(random);
    const PageCopy page = random.one_in(8) ? random_reference(random) : edited(reference, random);
    require_same_page(encoded(page, reference), reference, page);
  }
}

TEST_CASE("patch: a page like its reference is one step") {
  CHECK(encoded(pointers(), pointers()).size() <= 3);
  CHECK(encoded(PageCopy{}, PageCopy{}).size() <= 3);
}

TEST_CASE("patch: pointers that all moved by one amount cost a byte each at most") {
  const PageCopy reference = pointers();
  PageCopy page = reference;
  for (std::size_t at = 0; at < kPageSize; at += 8)
    set_word(page, at, word_of(page, at) - 0x12'3456'7000u);
  CHECK(encoded(page, reference).size() < 32);  // all at the same places: a repeat
  PageCopy sparse = reference;
  Random random(7);
  std::size_t moved = 0;
  for (std::size_t at = 0; at + 8 < kPageSize; at += 8 * (random.below(12) + 1), ++moved) {
    set_word(sparse, at, word_of(sparse, at) + 0xdead'0000u);
  }
  CHECK(encoded(sparse, reference).size() <= moved + 16);
}

TEST_CASE(
    "patch: repeats at every short distance, across the reference's end and up to the page's") {
  const PageCopy reference = page_of(5, kPageSize);
  for (std::size_t distance = 1; distance <= 40; ++distance) {
    for (const std::size_t begin :
         {std::size_t{0}, std::size_t{1}, std::size_t{17}, std::size_t{63}, kPageSize - 90}) {
      for (const std::size_t length : {distance + 5, std::size_t{90}}) {
        PageCopy page = reference;
        for (std::size_t i = begin; i < std::min(begin + length, kPageSize); ++i) {
          page.bytes[i] =
              i < distance ? reference.bytes[kPageSize + i - distance] : page.bytes[i - distance];
        }
        require_same_page(encoded(page, reference), reference, page);
      }
    }
  }
}

TEST_CASE("patch: what a page took from where it equals its reference is found at any offset") {
  const PageCopy reference = page_of(6, kPageSize);
  for (std::size_t from = 1000; from < 1064; ++from) {
    PageCopy page = reference;
    std::memcpy(&page.bytes[3001], &reference.bytes[from], 40);
    const Patch patch = encoded(page, reference);
    require_same_page(patch, reference, page);
    CHECK(patch.size() <= 12);  // a copy, the match, and back; not 40 bytes
  }
  for (std::size_t shift = 1; shift <= 24; ++shift) {
    PageCopy left = reference, right = reference;
    std::memcpy(&left.bytes[0], &reference.bytes[shift], kPageSize - shift);
    std::memcpy(&right.bytes[shift], &reference.bytes[0], kPageSize - shift);
    require_same_page(encoded(left, reference), reference, left);
    require_same_page(encoded(right, reference), reference, right);
  }
}

TEST_CASE("patch: what was encoded before makes no difference") {
  Random random(11);
  std::vector<std::pair<PageCopy, PageCopy>> pairs;
  std::vector<Patch> patches;
  for (int i = 0; i < 50; ++i) {
    const PageCopy reference = random_reference(random);
    pairs.emplace_back(edited(reference, random), reference);
    patches.push_back(encoded(pairs.back().first, reference));
  }
  for (std::size_t i = pairs.size(); i-- > 0;) {
    CHECK(encoded(pairs[i].first, pairs[i].second) == patches[i]);
  }
}

TEST_CASE("patch: noise costs no more than the stated bound, and less room is refused") {
  CAPTURE(seed_of_run());
  Random random(mix(seed_of_run() + 1));
  for (int i = 0; i < 200; ++i) {
    const PageCopy reference = page_of(random.next(), kPageSize);
    const PageCopy page = page_of(random.next(), kPageSize);
    Patch patch(patch::kPatchMax);
    const std::uint32_t length = patch::encode(page, reference, patch);
    REQUIRE(length != 0);
    Patch less(random.below(length));
    CHECK(patch::encode(page, reference, less) == 0);
  }
  // Four bytes here and there that the reference has too: copies that save less than they cost.
  const PageCopy reference = page_of(1, kPageSize);
  PageCopy page = page_of(2, kPageSize);
  for (std::size_t at = 13; at + 4 <= kPageSize; at += 17) {
    std::memcpy(&page.bytes[at], &reference.bytes[(at * 7) % 4000], 4);
  }
  require_same_page(encoded(page, reference), reference, page);
}

TEST_CASE("patch: every rule of what is not a patch") {
  const PageCopy reference = page_of(3, kPageSize);
  const auto is_patch = [&](std::initializer_list<int> bytes) {
    return readers_agree(patch_of(bytes), reference);
  };
  CHECK(is_patch({0xdc}));
  CHECK_FALSE(is_patch({0x00}));                    // no amount yet
  CHECK_FALSE(is_patch({0xa4}));                    // nothing to repeat
  CHECK(is_patch({0xac, 1, 0x00}));                 // a new amount, then again
  CHECK_FALSE(is_patch({0xac, 1, 0x80}));           // but there is only one
  CHECK_FALSE(is_patch({0xac}));                    // the value is missing
  CHECK_FALSE(is_patch({0xd3, 'a', 'b', 'c'}));     // a byte of the literal is missing
  CHECK_FALSE(is_patch({0xdb}));                    // its length is missing
  CHECK_FALSE(is_patch({0xdb, 0xc0}));              // half of it is missing
  CHECK_FALSE(is_patch({0xe8}));                    // a distance is missing
  CHECK_FALSE(is_patch({0xf0, 0x01}));              // half of it is missing
  CHECK_FALSE(is_patch({0xf0, 0x00, 0x00}));        // distance 0
  CHECK(is_patch({0xf0, 0x00, 0x10}));              // 4096: the reference's first byte
  CHECK_FALSE(is_patch({0xf0, 0x01, 0x10}));        // one before that
  CHECK(is_patch({0xe8, 0x02}));                    // the reference's last bytes, for ever
  CHECK_FALSE(is_patch({0xe8, 0x03}));              // the rest would begin in the reference's last
  CHECK(is_patch({0xe7, 0xcf, 0x34}));              // copy of 12 + 192 + 15 x 256 + 52 = 4096
  CHECK_FALSE(is_patch({0xe7, 0xcf, 0x35}));        // a byte too many
  CHECK_FALSE(is_patch({0xe7, 0xcf, 0x34, 0xdc}));  // nothing is left to be copied
  CHECK(is_patch({0xe7, 0xcf, 0x33, 0xac, 1}));     // a field in the last byte
  CHECK_FALSE(is_patch({0xe7, 0xcf, 0x33, 0xb4, 1, 1}));       // one beyond
  CHECK(is_patch({0xd0, 'a', 0xe8, 0x00}));                    // distance 1: the rest is 'a'
  CHECK_FALSE(is_patch({0xd0, 'a', 0xe8, 0x00, 0xb4, 1, 1}));  // a field wider than the distance
  CHECK(is_patch({0xd0, 'a', 0xe8, 0x00, 0xac, 1}));
}

TEST_CASE("patch: both readers agree on any steps, and on damaged patches") {
  CAPTURE(seed_of_run());
  Random random(mix(seed_of_run() + 2));
  int good = 0;
  for (int i = 0; i < 12'000; ++i) {
    const PageCopy reference = random_reference(random);
    Patch patch = random_patch(random);
    if (random.one_in(2)) {
      patch = encoded(edited(reference, random), reference);
      for (std::uint64_t n = random.below(4); n-- > 0;) {
        patch[random.below(patch.size())] = static_cast<std::byte>(random.next());
      }
      if (random.one_in(4)) patch.resize(random.below(patch.size()) + 1);
    }
    good += readers_agree(patch, reference) ? 1 : 0;
  }
  CHECK(good > 1000);
}
