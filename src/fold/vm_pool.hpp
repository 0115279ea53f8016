// SPDX-License-Identifier: GPL-2.0-or-later
// The pool of a VM's group as this VM uses it: which slot each of its pages maps. Until it is open
// the VM maps nothing.
//
// The slot of a page is 4 bytes in a table of its chunk; a chunk of which no page maps has none.
// A slot that the store takes for one without a mapping stops the group (store::Contents::unmap).
// Threads: open() from one, before anybody takes a slot; else any, but one at a time for the pages
// of one chunk.
#pragma once

#include <array>
#include <atomic>
#include <memory>
#include <vector>

#include "fold/shared_pool.hpp"
#include "guest/quiet_proof.hpp"
#include "guest/vm.hpp"
#include "store/contents.hpp"

namespace ramfold::fold {

class VmPool final : public SharedPool {
 public:
  // Of a VM with this many pages. `contents` outlives this, and so does a use of the group.
  VmPool(store::Contents& contents, GroupId group, PageCount pages);

  // `file`: of the group's pool, to read from (store::Contents::PoolFiles). EALREADY: it is open.
  Status open(sys::Fd file);
  bool is_open() const noexcept { return open_.load(std::memory_order_acquire); }
  // REQUIRES: it is open.
  sys::BorrowedFd descriptor() const noexcept { return file_; }

  guest::RamFileId file() const noexcept override { return id_; }
  bool take(PageIndex first, std::span<const ContentId> contents,
            std::span<std::optional<ByteCount>> out) noexcept override;
  void give_back(PageIndex p) noexcept override;
  Status read(ByteCount offset, std::byte* to) const noexcept override;

  // After a restart, before the store's mappings_known(): the address of p maps this slot, and its
  // word names the content. refused: the slot has other bytes, so the page is damaged; p has the
  // slot all the same. Or p has a slot already, and keeps that one. Errors, then p has none:
  // ENOMEM; ENOENT, EOVERFLOW as note_mapping() of the store.
  Result<store::Booked> note(PageIndex p, ContentId content, store::PoolSlot slot) noexcept;
  // The process has ended: no page maps its slot any more. REQUIRES: nobody else uses this.
  void give_all_back() noexcept;

  // Where in the file the slot of p is; nothing: it has none.
  std::optional<ByteCount> slot_of(PageIndex p) const noexcept;
  // Pages of this chunk that have a slot.
  unsigned mapped_in(std::size_t chunk) const noexcept {
    return chunk < chunks_.size() && chunks_[chunk] ? chunks_[chunk]->used : 0;
  }
  // Memory for the tables, and what those of a VM with this many pages may take.
  ByteCount tables() const noexcept;
  static ByteCount tables_max(PageCount pages) noexcept;
  // Pages that have a slot.
  PageCount mapped() const noexcept { return PageCount{mapped_.load(std::memory_order_relaxed)}; }

 private:
  struct Chunk {
    std::array<store::PoolSlot, guest::kChunkPages.value> slots{};  // slot 0: none
    unsigned used = 0;
  };
  std::unique_ptr<Chunk>& chunk_of(PageIndex p) noexcept {
    return chunks_[p.value / guest::kChunkPages.value];
  }
  static std::size_t chunks_of(PageCount pages) noexcept {
    return (pages.value + guest::kChunkPages.value - 1) / guest::kChunkPages.value;
  }
  static std::size_t place_of(PageIndex p) noexcept { return p.value % guest::kChunkPages.value; }
  // False: there is no memory for the chunk's table.
  bool has_table(PageIndex p) noexcept;
  void set(PageIndex p, store::PoolSlot slot) noexcept;
  void drop_table(PageIndex p) noexcept;

  store::Contents& contents_;
  GroupId group_;
  sys::Fd file_;
  guest::RamFileId id_;
  std::atomic<bool> open_{false};
  std::atomic<std::uint64_t> mapped_{0};
  std::atomic<std::uint64_t> tables_{0};
  std::vector<std::unique_ptr<Chunk>> chunks_;
};

}  // namespace ramfold::fold
