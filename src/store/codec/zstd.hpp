// SPDX-License-Identifier: GPL-2.0-or-later
// zstd of one page, alone or with another page as prefix. Frames without magic number, content size
// and checksum: 2 bytes of header are left. Threads: decode() is pure, each thread has its own
// state, allocated by prepare_to_decode() or its first call; an Encoder belongs to one thread at a
// time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "base/page_copy.hpp"
#include "base/result.hpp"

struct ZSTD_CCtx_s;

namespace ramfold::store::zstd {

class Encoder {
 public:
  // Errors: ENOMEM.
  static Result<Encoder> make(int level);
  // Bytes written to `out`, 0 when they would be more than fit. `prefix`: 4096 bytes, or nullptr.
  std::uint32_t encode(const std::byte* page, const std::byte* prefix,
                       std::span<std::byte> out) noexcept;

 private:
  struct Free {
    void operator()(ZSTD_CCtx_s* context) const noexcept;
  };
  explicit Encoder(ZSTD_CCtx_s* context) noexcept : context_(context) {}

  std::unique_ptr<ZSTD_CCtx_s, Free> context_;
};

// False when `block` is not a frame of exactly 4096 bytes. Safe on any bytes; writes at most 4096,
// and allocates nothing more, unless the prefix begins as a zstd dictionary does.
bool decode(std::span<const std::byte> block, const std::byte* prefix, std::byte* out) noexcept;
// Takes the memory for it.
void prepare_to_decode();

}  // namespace ramfold::store::zstd
