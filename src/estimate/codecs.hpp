// SPDX-License-Identifier: GPL-2.0-or-later
// How many bytes one page takes by itself, in each form without a reference.
// Threads: one owner each.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>

#include "base/page_copy.hpp"

struct ZSTD_CCtx_s;

namespace ramfold::estimate {

struct PageSizes {
  std::uint16_t lz4;   // bytes; 4096 when the form saves too little
  std::uint16_t zstd;  // level 1

  std::uint16_t smallest() const noexcept { return std::min(lz4, zstd); }
};

class Codecs {
 public:
  Codecs();
  ~Codecs();
  Codecs(const Codecs&) = delete;
  Codecs& operator=(const Codecs&) = delete;

  PageSizes measure(const PageCopy& page) noexcept;

 private:
  ZSTD_CCtx_s* zstd_;
};

}  // namespace ramfold::estimate
