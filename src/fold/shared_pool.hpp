// SPDX-License-Identifier: GPL-2.0-or-later
// What mapping needs of the pool of a VM's group, as one VM sees it: a read-only file in which each
// slot holds the bytes of one content. A slot is written once, into a hole, and freed by punching
// (D12). So a slot never changes while a page maps it.
// Threads: any.
#pragma once

#include <cstddef>
#include <optional>

#include "base/result.hpp"
#include "base/types.hpp"
#include "guest/facts.hpp"

namespace ramfold::fold {

class SharedPool {
 public:
  SharedPool() = default;
  SharedPool(const SharedPool&) = delete;
  SharedPool& operator=(const SharedPool&) = delete;
  virtual ~SharedPool() = default;

  // As the kernel names it where it is mapped.
  virtual guest::RamFileId file() const noexcept = 0;
  // A slot with the content's bytes that p may map: where it is in the file. It stays until p gives
  // it back. Nothing: none can be had now. REQUIRES: p has no slot.
  virtual std::optional<ByteCount> take(PageIndex p, ContentId content) noexcept = 0;
  // p has never mapped its slot, or maps it no more.
  virtual void give_back(PageIndex p) noexcept = 0;
  // A page of bytes from the file.
  virtual Status read(ByteCount offset, std::byte* to) const noexcept = 0;
};

}  // namespace ramfold::fold
