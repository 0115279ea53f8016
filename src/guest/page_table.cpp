// SPDX-License-Identifier: GPL-2.0-or-later
#include "guest/page_table.hpp"

#include "base/check.hpp"
#include "sys/resident.hpp"

namespace ramfold::guest {
namespace {

constexpr std::uint8_t kContended = 0x80;

constexpr std::uint8_t byte_of(Owner o) noexcept { return static_cast<std::uint8_t>(o); }

constexpr std::uint64_t round_up(std::uint64_t n, std::uint64_t step) noexcept {
  return (n + step - 1) / step * step;
}

}  // namespace

ByteCount PageTable::words_size(PageCount pages) noexcept {
  return ByteCount{round_up(pages.value * sizeof(std::uint64_t), kPageSize)};
}

ByteCount PageTable::shared_size(PageCount pages) noexcept {
  return ByteCount{RF_SHARED_PAGE + round_up((pages.value + 7) / 8, kPageSize)};
}

ByteCount PageTable::owners_size(PageCount pages) noexcept {
  return ByteCount{round_up(pages.value, kPageSize)};
}

ByteCount PageTable::owners_in_memory() const noexcept { return sys::resident(owners_); }

Result<PageTable> PageTable::open(sys::BorrowedFd words, sys::BorrowedFd shared, PageCount pages,
                                  std::uint64_t seed) {
  if (pages.value == 0) return fail("a page table needs at least one page");
  for (const auto& [fd, size] :
       {std::pair{words, words_size(pages)}, std::pair{shared, shared_size(pages)}}) {
    const auto have = sys::file_size(fd);
    if (!have) return std::unexpected(have.error());
    if (*have < size) return fail("a page table's memory file is too short");
  }
  auto words_map = sys::Mapping::shared(words, words_size(pages));
  if (!words_map) return std::unexpected(words_map.error());
  auto shared_map = sys::Mapping::shared(shared, shared_size(pages));
  if (!shared_map) return std::unexpected(shared_map.error());
  auto owners = sys::Mapping::anonymous(owners_size(pages));
  if (!owners) return std::unexpected(owners.error());
  return PageTable(std::move(*words_map), std::move(*owners), std::move(*shared_map), pages,
                   WordCheck(seed));
}

PageTable::PageTable(sys::Mapping words, sys::Mapping owners, sys::Mapping shared, PageCount pages,
                     WordCheck check) noexcept
    : words_(std::move(words)),
      owners_(std::move(owners)),
      shared_(std::move(shared)),
      pages_(pages),
      check_(check) {}

Advanced PageTable::advance(PageIndex p, Word seen, Word next, Owner by) noexcept {
  DENSURE(static_cast<Owner>(owner_byte(p).load(std::memory_order_relaxed) & ~kContended) == by);
  if (!is_legal(seen.tag(), next.tag(), by)) return Advanced::illegal;
  return replace(p, check_.seal(p, seen), next);
}

Advanced PageTable::repair(PageIndex p, DamagedWord seen, Tag to, Owner by) noexcept {
  DENSURE(static_cast<Owner>(owner_byte(p).load(std::memory_order_relaxed) & ~kContended) == by);
  const bool legal = (to == Tag::none && (by == Owner::filling || by == Owner::punching)) ||
                     (to == Tag::poisoned && by == Owner::filling);
  if (!legal) return Advanced::illegal;
  return replace(p, seen.stored, Word{}.becomes(to, 0u, 0, 0));
}

Advanced PageTable::replace(PageIndex p, std::uint64_t stored, Word next) noexcept {
  const bool replaced =
      word(p).compare_exchange_strong(stored, check_.seal(p, next), std::memory_order_seq_cst);
  return replaced ? Advanced::done : Advanced::moved;
}

Owner PageTable::owner(PageIndex p) const noexcept {
  return static_cast<Owner>(owner_byte(p).load(std::memory_order_acquire) & ~kContended);
}

bool PageTable::take_idle(PageIndex p, Owner by) noexcept {
  std::uint8_t idle = byte_of(Owner::idle);
  return owner_byte(p).compare_exchange_strong(idle, byte_of(by), std::memory_order_acq_rel);
}

bool PageTable::take_for_fold(PageIndex p) noexcept { return take_idle(p, Owner::folding); }
bool PageTable::take_for_mapping(PageIndex p) noexcept { return take_idle(p, Owner::mapping); }
bool PageTable::take_for_restoring(PageIndex p) noexcept { return take_idle(p, Owner::restoring); }

Taken PageTable::take_for_fill(PageIndex p) noexcept {
  auto byte = owner_byte(p);
  std::uint8_t seen = byte.load(std::memory_order_acquire);
  for (;;) {
    const bool takeable = seen == byte_of(Owner::idle) || seen == byte_of(Owner::folding);
    const auto next =
        takeable ? byte_of(Owner::filling) : static_cast<std::uint8_t>(seen | kContended);
    if (byte.compare_exchange_weak(seen, next, std::memory_order_acq_rel)) {
      return takeable ? Taken::owned : Taken::busy;
    }
  }
}

bool PageTable::take_idle_for_fill(PageIndex p) noexcept { return take_idle(p, Owner::filling); }

bool PageTable::commit(PageIndex p) noexcept {
  std::uint8_t folding = byte_of(Owner::folding);
  return owner_byte(p).compare_exchange_strong(folding, byte_of(Owner::punching),
                                               std::memory_order_seq_cst);
}

bool PageTable::give_up_fold(PageIndex p) noexcept {
  std::uint8_t folding = byte_of(Owner::folding);
  return owner_byte(p).compare_exchange_strong(folding, byte_of(Owner::idle),
                                               std::memory_order_acq_rel);
}

Released PageTable::release(PageIndex p) noexcept {
  const std::uint8_t was = owner_byte(p).exchange(byte_of(Owner::idle), std::memory_order_acq_rel);
  DENSURE((was & ~kContended) != byte_of(Owner::idle) &&
          (was & ~kContended) != byte_of(Owner::folding));
  return (was & kContended) != 0 ? Released::contended : Released::quiet;
}

std::atomic_ref<std::uint64_t> PageTable::discard_word(PageIndex p) const noexcept {
  auto* bitmap = reinterpret_cast<std::uint64_t*>(shared_.data() + RF_SHARED_PAGE);
  return std::atomic_ref<std::uint64_t>(bitmap[p.value / 64]);
}

bool PageTable::discarded(PageIndex p) const noexcept {
  return (discard_word(p).load(std::memory_order_seq_cst) >> (p.value % 64) & 1) != 0;
}

void PageTable::clear_discard(PageIndex p) noexcept {
  const std::uint64_t bit = std::uint64_t{1} << (p.value % 64);
  // A discard raises discards_active before it sets its bits. If it set this page's bit before or
  // after the clearing and is still under way, the count shows it, and the bit is set again. A
  // discard that began and ended in between left a hole that is zero, and this owner's word says so
  // already.
  if (shared().discards_active.load(std::memory_order_seq_cst) != 0) return;
  discard_word(p).fetch_and(~bit, std::memory_order_seq_cst);
  if (shared().discards_active.load(std::memory_order_seq_cst) != 0) {
    discard_word(p).fetch_or(bit, std::memory_order_seq_cst);
  }
}

}  // namespace ramfold::guest
