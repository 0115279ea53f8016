// SPDX-License-Identifier: GPL-2.0-or-later
#include "store/codec/zstd.hpp"

#define ZSTD_STATIC_LINKING_ONLY  // frames without a magic number, decoders without an allocation
#include <zstd.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "base/check.hpp"
#include "store/scratch.hpp"

namespace ramfold::store::zstd {
namespace {

// ZSTD_estimateDCtxSize() returns 96 KiB; the rest is for later versions of the library.
constexpr std::size_t kDecoderBytes = 192 * 1024;

class Decoder {
 public:
  Decoder()
      : workspace_(static_cast<std::byte*>(std::calloc(1, kDecoderBytes))),
        context_(ZSTD_initStaticDCtx(workspace_.get(), kDecoderBytes)) {
    ENSURE(context_ != nullptr);
    ENSURE(!ZSTD_isError(ZSTD_DCtx_setParameter(context_, ZSTD_d_format, ZSTD_f_zstd1_magicless)));
  }
  ZSTD_DCtx* context() noexcept { return context_; }

 private:
  struct Free {
    void operator()(std::byte* at) const noexcept { std::free(at); }
  };
  // Zeroed, because the library relies on it. Only the pages that are used become resident.
  std::unique_ptr<std::byte, Free> workspace_;
  ZSTD_DCtx* context_;
};

// The library takes such a prefix as plain bytes only through a call that allocates.
bool looks_like_dictionary(const std::byte* prefix) noexcept {
  std::uint32_t magic = 0;
  std::memcpy(&magic, prefix, sizeof magic);
  return magic == ZSTD_MAGIC_DICTIONARY;
}

}  // namespace

void Encoder::Free::operator()(ZSTD_CCtx_s* context) const noexcept { ZSTD_freeCCtx(context); }

Result<Encoder> Encoder::make(int level) {
  Encoder encoder(ZSTD_createCCtx());
  ZSTD_CCtx* const context = encoder.context_.get();
  if (context == nullptr) return fail("memory for a zstd encoder", ENOMEM);
  const auto set = [&](ZSTD_cParameter what, int value) {
    return !ZSTD_isError(ZSTD_CCtx_setParameter(context, what, value));
  };
  if (!set(ZSTD_c_compressionLevel, level) || !set(ZSTD_c_contentSizeFlag, 0) ||
      !set(ZSTD_c_checksumFlag, 0) || !set(ZSTD_c_format, ZSTD_f_zstd1_magicless)) {
    return fail("the zstd library does not take this level", EINVAL);
  }
  return encoder;
}

std::uint32_t Encoder::encode(const std::byte* page, const std::byte* prefix,
                              std::span<std::byte> out) noexcept {
  ZSTD_CCtx* const context = context_.get();
  if (prefix != nullptr && ZSTD_isError(ZSTD_CCtx_refPrefix(context, prefix, kPageSize))) return 0;
  const std::size_t length = ZSTD_compress2(context, out.data(), out.size(), page, kPageSize);
  if (!ZSTD_isError(length)) return static_cast<std::uint32_t>(length);
  ZSTD_CCtx_reset(context, ZSTD_reset_session_only);
  return 0;
}

void prepare_to_decode() { (void)thread_scratch<Decoder>(); }

bool decode(std::span<const std::byte> block, const std::byte* prefix, std::byte* out) noexcept {
  ZSTD_DCtx* const context = thread_scratch<Decoder>().context();
  if (prefix != nullptr && looks_like_dictionary(prefix)) {
    ZSTD_DCtx_reset(context, ZSTD_reset_session_only);
    if (ZSTD_isError(ZSTD_DCtx_refPrefix(context, prefix, kPageSize))) return false;
    const std::size_t length =
        ZSTD_decompressDCtx(context, out, kPageSize, block.data(), block.size());
    ZSTD_DCtx_refPrefix(context, nullptr, 0);  // gives back what the first call allocated
    return length == kPageSize;
  }
  const std::size_t length =
      ZSTD_decompress_usingDict(context, out, kPageSize, block.data(), block.size(), prefix,
                                prefix == nullptr ? 0 : kPageSize);
  return length == kPageSize;
}

}  // namespace ramfold::store::zstd
