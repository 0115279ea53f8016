// SPDX-License-Identifier: GPL-2.0-or-later
// zstd frames of one page, alone or with another page as prefix. The frames have no magic number,
// content size or checksum, so the header has only 2 bytes.
// Threads: decode() is pure; each thread has its own state, allocated by prepare_to_decode() or the
// first call. An Encoder belongs to one thread at a time.
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
  // Returns the bytes written to `out`; 0 when the frame would be larger than `out`. `prefix`: 4096
  // bytes, or nullptr.
  std::uint32_t encode(const std::byte* page, const std::byte* prefix,
                       std::span<std::byte> out) noexcept;

 private:
  struct Free {
    void operator()(ZSTD_CCtx_s* context) const noexcept;
  };
  explicit Encoder(ZSTD_CCtx_s* context) noexcept : context_(context) {}

  std::unique_ptr<ZSTD_CCtx_s, Free> context_;
};

// False when `block` is no frame of exactly 4096 bytes. Safe on any bytes; writes at most 4096
// bytes. Allocates nothing after prepare_to_decode(), unless the prefix begins with the magic
// number of a zstd dictionary.
bool decode(std::span<const std::byte> block, const std::byte* prefix, std::byte* out) noexcept;
// Allocates this thread's memory for decode().
void prepare_to_decode();

}  // namespace ramfold::store::zstd
