// SPDX-License-Identifier: GPL-2.0-or-later
#include "store/codec/forms.hpp"

#include <cstring>

#include "store/codec/lz4.hpp"
#include "store/codec/zstd.hpp"
#include "store/mix/mix.hpp"
#include "store/patch/patch.hpp"
#include "store/scratch.hpp"

namespace ramfold::store {
namespace {

struct Columns {
  PageCopy page;
  PageCopy reference;
};

bool decode_plain(Form form, std::span<const std::byte> bytes, const std::byte* reference,
                  std::byte* out) noexcept {
  switch (form) {
    case Form::raw:
      if (bytes.size() != kPageSize) return false;
      std::memcpy(out, bytes.data(), kPageSize);
      return true;
    case Form::lz4: return lz4::decode(bytes, out);
    case Form::zstd: return zstd::decode(bytes, nullptr, out);
    case Form::patch: return reference != nullptr && patch::decode(bytes, reference, out);
    case Form::delta: return reference != nullptr && zstd::decode(bytes, reference, out);
    case Form::mix: return mix::decode(bytes, nullptr, out);
    case Form::mix_delta: return reference != nullptr && mix::decode(bytes, reference, out);
    case Form::zero: break;
  }
  return false;
}

}  // namespace

void prepare_to_decode() {
  zstd::prepare_to_decode();
  mix::prepare_to_decode();
  (void)thread_scratch<Columns>();
}

bool decode(Shape shape, std::span<const std::byte> bytes, const std::byte* reference,
            std::byte* out) noexcept {
  if (shape.transpose == Transpose::none) return decode_plain(shape.form, bytes, reference, out);
  auto& columns = thread_scratch<Columns>();
  if (reference != nullptr) {
    transpose(shape.transpose, reference, columns.reference.bytes.data());
    reference = columns.reference.bytes.data();
  }
  if (!decode_plain(shape.form, bytes, reference, columns.page.bytes.data())) return false;
  transpose_back(shape.transpose, columns.page.bytes.data(), out);
  return true;
}

}  // namespace ramfold::store
