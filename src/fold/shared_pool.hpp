// SPDX-License-Identifier: GPL-2.0-or-later
// What mapping needs of the pool of a VM's group, as one VM sees it: a read-only file in which each
// slot holds the bytes of one content. A slot is written once, into a hole, and freed by punching
// (D12). So a slot never changes while a page maps it.
// Threads: any, but one at a time for the pages of one chunk.
#pragma once

#include <cstddef>
#include <optional>
#include <span>

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
  // For the page first + i: a slot with the bytes of contents[i] that it may map, namely where the
  // slot is in the file. It stays until the page gives it back. Nothing: none can be had now, or
  // the content is kZeroContent, for which none is wanted. Neighbours get neighbouring slots where
  // possible. False: a page for which a slot is wanted has one already, which is damage. It keeps
  // that one and gets none. REQUIRES: out.size() == contents.size() <= guest::kProofPagesMax, in
  // one chunk; the caller holds a reference to each content.
  [[nodiscard]] virtual bool take(PageIndex first, std::span<const ContentId> contents,
                                  std::span<std::optional<ByteCount>> out) noexcept = 0;
  // p has never mapped its slot, or maps it no more. Nothing is done if it has none: a restart may
  // have found no slot where its address maps the file.
  virtual void give_back(PageIndex p) noexcept = 0;
  // A page of bytes from the file.
  virtual Status read(ByteCount offset, std::byte* to) const noexcept = 0;
};

}  // namespace ramfold::fold
