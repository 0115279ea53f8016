// SPDX-License-Identifier: GPL-2.0-or-later
#include "fold/vm_pool.hpp"

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <new>

#include "base/check.hpp"

namespace ramfold::fold {

using store::Booked;
using store::PoolSlot;

namespace {

constexpr ByteCount place_in_file(PoolSlot slot) noexcept {
  return ByteCount{std::uint64_t{slot.value} << kPageShift};
}

}  // namespace

VmPool::VmPool(store::Contents& contents, GroupId group, PageCount pages)
    : contents_(contents), group_(group), chunks_(chunks_of(pages)) {}

Status VmPool::open(sys::Fd file) {
  if (is_open()) return fail("the VM has its pool already", EALREADY);
  struct stat st{};
  if (::fstat(file.get(), &st) != 0) return fail_errno("fstat of a pool");
  id_ = {st.st_dev, st.st_ino};
  file_ = std::move(file);
  open_.store(true, std::memory_order_release);
  return {};
}

bool VmPool::has_table(PageIndex p) noexcept {
  std::unique_ptr<Chunk>& chunk = chunk_of(p);
  if (chunk) return true;
  chunk.reset(new (std::nothrow) Chunk);
  if (!chunk) return false;
  tables_.fetch_add(1, std::memory_order_relaxed);
  return true;
}

void VmPool::drop_table(PageIndex p) noexcept {
  if (chunk_of(p)->used != 0) return;
  chunk_of(p).reset();
  tables_.fetch_sub(1, std::memory_order_relaxed);
}

ByteCount VmPool::tables() const noexcept {
  return ByteCount{chunks_.size() * sizeof(chunks_[0]) +
                   tables_.load(std::memory_order_relaxed) * sizeof(Chunk)};
}

ByteCount VmPool::tables_max(PageCount pages) noexcept {
  return ByteCount{chunks_of(pages) * (sizeof(std::unique_ptr<Chunk>) + sizeof(Chunk))};
}

void VmPool::set(PageIndex p, PoolSlot slot) noexcept {
  Chunk& chunk = *chunk_of(p);
  PoolSlot& here = chunk.slots[place_of(p)];
  DENSURE(here.value == 0);
  here = slot;
  ++chunk.used;
  mapped_.fetch_add(1, std::memory_order_relaxed);
}

bool VmPool::take(PageIndex first, std::span<const ContentId> contents,
                  std::span<std::optional<ByteCount>> out) noexcept {
  ENSURE(contents.size() == out.size() && contents.size() <= guest::kProofPagesMax.value);
  std::array<ContentId, guest::kProofPagesMax.value> wanted;
  std::array<std::size_t, guest::kProofPagesMax.value> page_of;
  std::array<Result<PoolSlot>, guest::kProofPagesMax.value> slots;
  std::size_t count = 0;
  bool all_without = true;
  for (std::size_t i = 0; i < contents.size(); ++i) {
    out[i] = std::nullopt;
    if (contents[i] == kZeroContent) continue;
    // Such a page lost its word to damage, and then its mapping to a discard.
    if (slot_of(PageIndex{first.value + i})) {
      all_without = false;
      continue;
    }
    wanted[count] = contents[i];
    page_of[count++] = i;
  }
  if (count == 0 || !is_open() || !has_table(first)) return all_without;
  contents_.share_run(group_, std::span(wanted).first(count), std::span(slots).first(count));
  for (std::size_t k = 0; k < count; ++k) {
    if (!slots[k]) continue;
    set(PageIndex{first.value + page_of[k]}, *slots[k]);
    out[page_of[k]] = place_in_file(*slots[k]);
  }
  drop_table(first);
  return all_without;
}

void VmPool::give_back(PageIndex p) noexcept {
  std::unique_ptr<Chunk>& chunk = chunk_of(p);
  if (!chunk || chunk->slots[place_of(p)].value == 0) return;
  const PoolSlot slot = std::exchange(chunk->slots[place_of(p)], PoolSlot{0});
  --chunk->used;
  drop_table(p);
  mapped_.fetch_sub(1, std::memory_order_relaxed);
  (void)contents_.unmap(group_, slot);  // a refusal stops the group
}

Status VmPool::read(ByteCount offset, std::byte* to) const noexcept {
  for (std::size_t done = 0; done < kPageSize;) {
    const ssize_t n =
        ::pread(file_.get(), to + done, kPageSize - done, static_cast<off_t>(offset.value + done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail_errno("pread of a pool");
    if (n == 0) return fail("pread of a pool: it ends before the page", ERANGE);
    done += static_cast<std::size_t>(n);
  }
  return {};
}

Result<Booked> VmPool::note(PageIndex p, ContentId content, PoolSlot slot) noexcept {
  if (!is_open()) return fail("the VM has no pool", ENOENT);
  if (slot_of(p)) return Booked::refused;
  if (!has_table(p)) return fail("memory for the slots of pages", ENOMEM);
  const Result<Booked> noted = contents_.note_mapping(group_, content, slot);
  if (noted) set(p, slot);
  drop_table(p);
  return noted;
}

void VmPool::give_all_back() noexcept {
  for (std::size_t c = 0; c < chunks_.size(); ++c) {
    for (std::uint64_t i = 0; chunks_[c] && i < guest::kChunkPages.value; ++i) {
      if (chunks_[c]->slots[i].value != 0) give_back(PageIndex{c * guest::kChunkPages.value + i});
    }
  }
}

std::optional<ByteCount> VmPool::slot_of(PageIndex p) const noexcept {
  const Chunk* const chunk = chunks_[p.value / guest::kChunkPages.value].get();
  if (chunk == nullptr || chunk->slots[place_of(p)].value == 0) return std::nullopt;
  return place_in_file(chunk->slots[place_of(p)]);
}

}  // namespace ramfold::fold
