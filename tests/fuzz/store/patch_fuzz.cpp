// SPDX-License-Identifier: GPL-2.0-or-later
// Any bytes as a patch: the decoder accepts what the format accepts, gives the page that the format
// gives and touches nothing beyond its three buffers. Every page made so is encoded against the
// same reference again.
//
// Input: a byte that says what the reference is like, then the patch.
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "../../model/store/plain_patch.hpp"
#include "store/patch/patch.hpp"

using namespace ramfold;
using namespace ramfold::store;

namespace {

void require(bool ok) {
  if (!ok) std::abort();
}

void fill(PageCopy& page, std::uint8_t kind) {
  std::uint64_t word = kind;
  for (std::size_t i = 0; i < kPageSize; i += 8) {
    if (kind % 4 == 0) word = word * 6364136223846793005u + 1442695040888963407u;  // noise
    if (kind % 4 == 1) word = 0x7f12'0000'0000u + i * kind;                        // pointers
    if (kind % 4 == 2 && i % 64 == 0) word += 0x0101'0101'0101'0101u;              // runs
    std::memcpy(&page.bytes[i], &word, 8);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const auto reference = std::make_unique<PageCopy>();  // on the heap, for the sanitizer
  fill(*reference, data[0]);
  const auto* bytes = reinterpret_cast<const std::byte*>(data);
  const std::vector<std::byte> patch(bytes + 1, bytes + size);

  const auto out = std::make_unique<PageCopy>();
  const bool ok = patch::decode(patch, reference->bytes.data(), out->bytes.data());
  const auto plain = test::PlainPatchReader::read(patch, *reference);
  require(ok == plain.has_value());
  if (!ok) return 0;
  require(std::memcmp(out->bytes.data(), plain->data(), kPageSize) == 0);

  std::vector<std::byte> again(patch::kPatchMax);
  const std::uint32_t length = patch::encode(*out, *reference, again);
  require(length != 0 && length <= again.size());
  again.resize(length);
  again.shrink_to_fit();
  const auto decoded = std::make_unique<PageCopy>();
  require(patch::decode(again, reference->bytes.data(), decoded->bytes.data()));
  require(decoded->bytes == out->bytes);
  // One byte less is no room.
  std::vector<std::byte> less(length - 1);
  require(patch::encode(*out, *reference, less) == 0);
  return 0;
}
