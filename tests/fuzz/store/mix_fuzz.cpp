// SPDX-License-Identifier: GPL-2.0-or-later
// Any bytes as a mixed page: the decoder accepts what the format accepts, gives the page that the
// format gives and touches nothing beyond its buffers. Every page made so is encoded again.
//
// Input: a byte that says what the reference is like, then the bytes.
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "../../model/store/plain_mix.hpp"
#include "store/mix/mix.hpp"

using namespace ramfold;
using namespace ramfold::store;

namespace {

void require(bool ok) {
  if (!ok) std::abort();
}

void fill(PageCopy& page, std::uint8_t kind) {
  std::uint64_t word = kind;
  for (std::size_t i = 0; i < kPageSize; i += 8) {
    if (kind % 4 == 1) word = word * 6364136223846793005u + 1442695040888963407u;  // noise
    if (kind % 4 == 2) word = 0x7f12'0000'0000u + i * kind;                        // pointers
    std::memcpy(&page.bytes[i], &word, 8);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 2) return 0;
  const bool refers = data[0] % 4 != 0;
  const auto page = std::make_unique<PageCopy>();  // on the heap, for the sanitizer
  fill(*page, data[0]);
  const PageCopy* const reference = refers ? page.get() : nullptr;
  const std::byte* const prefix = refers ? page->bytes.data() : nullptr;
  const auto* bytes = reinterpret_cast<const std::byte*>(data);
  const std::vector<std::byte> mixed(bytes + 1, bytes + size);

  const auto out = std::make_unique<PageCopy>();
  const bool ok = mix::decode(mixed, prefix, out->bytes.data());
  const auto plain = test::PlainMixReader::read(mixed, reference);
  require(ok == plain.has_value());
  if (!ok) return 0;
  require(std::memcmp(out->bytes.data(), plain->data(), kPageSize) == 0);

  std::vector<std::byte> again(2 * kPageSize);
  const std::uint32_t length = mix::encode(out->bytes.data(), prefix, again);
  require(length != 0 && length <= again.size());
  again.resize(length);
  again.shrink_to_fit();
  const auto decoded = std::make_unique<PageCopy>();
  require(mix::decode(again, prefix, decoded->bytes.data()));
  require(decoded->bytes == out->bytes);
  std::vector<std::byte> less(length - 1);
  require(mix::encode(out->bytes.data(), prefix, less) == 0);
  return 0;
}
