// SPDX-License-Identifier: GPL-2.0-or-later
#include "store/codec/zstd.hpp"

#include <array>
#include <atomic>
#include <catch2/catch.hpp>
#include <cstring>

#include "pages.hpp"
#include "random.hpp"
#include "store/codec/forms.hpp"
#include "store/mix/mix.hpp"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define COUNTS_ALLOCATIONS 0
#else
#define COUNTS_ALLOCATIONS 1
#endif

namespace {
std::atomic<unsigned> allocations{0};
}

#if COUNTS_ALLOCATIONS
// The library's calls come here as well.
extern "C" void* __libc_malloc(std::size_t size);
extern "C" void* malloc(std::size_t size) {
  allocations.fetch_add(1, std::memory_order_relaxed);
  return __libc_malloc(size);
}
#endif

using namespace ramfold;
using namespace ramfold::store;
using namespace ramfold::store::test;

namespace {

struct Frame {
  std::array<std::byte, kPageSize> bytes{};
  std::uint32_t length = 0;
  std::span<const std::byte> block() const { return std::span(bytes).first(length); }
};

Frame frame_of(const PageCopy& page, const PageCopy* prefix) {
  static zstd::Encoder encoder = [] {
    auto made = zstd::Encoder::make(3);
    REQUIRE(made.has_value());
    return std::move(*made);
  }();
  Frame frame;
  frame.length = encoder.encode(page.bytes.data(),
                                prefix == nullptr ? nullptr : prefix->bytes.data(), frame.bytes);
  return frame;
}

bool comes_back(const Frame& frame, const PageCopy& page, const PageCopy* prefix) {
  PageCopy out;
  return zstd::decode(frame.block(), prefix == nullptr ? nullptr : prefix->bytes.data(),
                      out.bytes.data()) &&
         out.bytes == page.bytes;
}

}  // namespace

TEST_CASE("a page comes back from its frame, alone and with a prefix, in any order") {
  CAPTURE(seed_of_run());
  Random random(seed_of_run());
  for (int i = 0; i < 500; ++i) {
    const std::uint64_t family = random.below(5);
    const PageCopy prefix = kin_of(family, random.next());
    const PageCopy page = kin_of(family, random.next());
    const Frame with = frame_of(page, &prefix);
    const Frame alone = frame_of(page, nullptr);
    if (with.length != 0) REQUIRE(comes_back(with, page, &prefix));
    if (alone.length != 0) REQUIRE(comes_back(alone, page, nullptr));
    // What a broken frame leaves behind is not in the way of the next.
    if (with.length > 8) {
      PageCopy out;
      (void)zstd::decode(with.block().first(with.length / 2), prefix.bytes.data(),
                         out.bytes.data());
      REQUIRE(comes_back(with, page, &prefix));
    }
  }
}

TEST_CASE("a prefix that begins as a zstd dictionary does is bytes as any other") {
  PageCopy prefix = kin_of(1, 1);
  constexpr std::uint32_t kMagic = 0xEC30A437;  // of a dictionary, RFC 8878, 5
  std::memcpy(prefix.bytes.data(), &kMagic, sizeof kMagic);
  const PageCopy page = kin_of(1, 2);
  const Frame frame = frame_of(page, &prefix);
  REQUIRE(frame.length != 0);
  CHECK(comes_back(frame, page, &prefix));
  CHECK(comes_back(frame, page, &prefix));
  const PageCopy half = page_of(3, kPageSize / 2);  // noise, then zeros
  const Frame alone = frame_of(half, nullptr);
  REQUIRE(alone.length != 0);
  CHECK(comes_back(alone, half, nullptr));
}

TEST_CASE("who is prepared decodes without allocating") {
  const PageCopy prefix = kin_of(2, 1);
  const PageCopy page = kin_of(2, 2);
  const Frame with = frame_of(page, &prefix);
  const Frame alone = frame_of(page_of(3, kPageSize / 2), nullptr);
  Frame mixed;
  mixed.length = mix::encode(page.bytes.data(), prefix.bytes.data(), mixed.bytes);
  prepare_to_decode();
  PageCopy out;
  bool good = true;
  const unsigned before = allocations.load();
  for (int i = 0; i < 100; ++i) {
    good =
        good && store::decode({Form::delta}, with.block(), prefix.bytes.data(), out.bytes.data());
    good = good && store::decode({Form::zstd}, alone.block(), nullptr, out.bytes.data());
    good = good &&
           store::decode({Form::mix_delta}, mixed.block(), prefix.bytes.data(), out.bytes.data());
    (void)store::decode({Form::delta, Transpose::words8}, with.block(), prefix.bytes.data(),
                        out.bytes.data());
  }
  CHECK(allocations.load() == before);
  CHECK(good);
#if COUNTS_ALLOCATIONS
  CHECK(before != 0);  // or nothing is counted here
#endif
}
