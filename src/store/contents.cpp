// SPDX-License-Identifier: GPL-2.0-or-later
#include "store/contents.hpp"

#include <sys/random.h>
#include <algorithm>
#include <cstring>
#include <limits>
#include <utility>

#include "base/check.hpp"
#include "base/test_points.hpp"
#include "store/codec/forms.hpp"
#include "store/parts.hpp"
#include "store/reform/cost_model.hpp"
#include "store/scratch.hpp"
#include "store/stats.hpp"

namespace ramfold::store {

Result<std::unique_ptr<Contents>> Contents::create(ByteCount arena_max, HashFunction hash) {
  const ByteCount arena{(arena_max.value + kSlabBytes - 1) / kSlabBytes * kSlabBytes};
  if (arena_max.value == 0 || arena_max > kArenaMax) {
    return fail("the arena's size must be 1 byte to 1 TiB", EINVAL);
  }
  std::uint64_t store_id = 0;
  if (::getrandom(&store_id, sizeof store_id, 0) != sizeof store_id) return fail_errno("getrandom");
  Files files;
  auto contents = HeaderTable::make_file(arena, store_id);
  if (!contents) return std::unexpected(contents.error());
  files.contents = std::move(*contents);
  auto bytes = Arena::make_file(arena);
  if (!bytes) return std::unexpected(bytes.error());
  files.arena = std::move(*bytes);
  auto groups = GroupTable::make_file(store_id);
  if (!groups) return std::unexpected(groups.error());
  files.groups = std::move(*groups);
  auto store = adopt(std::move(files), hash);
  if (store) (*store)->parts_->phase.store(Phase::ready);
  return store;
}

Result<std::unique_ptr<Contents>> Contents::adopt(Files files, HashFunction hash) {
  auto parts = Parts::open(files, hash);
  if (!parts) return std::unexpected(parts.error());
  if (auto adopted = (*parts)->adopt_pools(std::exchange(files.pools, {})); !adopted) {
    return std::unexpected(adopted.error());
  }
  return std::unique_ptr<Contents>(new Contents(std::move(files), std::move(*parts)));
}

Result<std::unique_ptr<Parts>> Parts::open(const StoreFiles& files, HashFunction hash) {
  auto headers = HeaderTable::open(files.contents);
  if (!headers) return std::unexpected(headers.error());
  const Superblock& block = (*headers)->superblock();
  auto groups = GroupTable::open(files.groups, block.store_id);
  if (!groups) return std::unexpected(groups.error());
  auto arena = Arena::open(files.arena, ByteCount{block.arena_bytes});
  if (!arena) return std::unexpected(arena.error());
  auto index = Index::make(**headers, block.contents_max);
  if (!index) return std::unexpected(index.error());
  auto twins = Twins::make(ByteCount{block.arena_bytes});
  if (!twins) return std::unexpected(twins.error());
  Usage& usage = (*groups)->usage();
  std::unique_ptr<Parts> parts(new Parts{.headers = std::move(*headers),
                                         .groups = std::move(*groups),
                                         .arena = std::move(*arena),
                                         .index = std::move(*index),
                                         .pools = {},
                                         .moving = {},
                                         .usage = usage,
                                         .twins = std::move(*twins),
                                         .readers = {},
                                         .hash_for_tests = hash,
                                         .similarity_bytes = {},
                                         .corrupt = {},
                                         .collisions = {},
                                         .miscounted = {},
                                         .stopped_groups = {}});
  {
    const MutexLock lock(parts->moving.mutex);
    parts->moving.left.reserve(Moving::kLeftMax);
  }
  return parts;
}

Contents::Contents(Files files, std::unique_ptr<Parts> parts) noexcept
    : files_(std::move(files)), parts_(std::move(parts)) {}
Contents::~Contents() { parts_->groups->close(); }

void Contents::hand_over() noexcept {
  parts_->groups->close();
  parts_->phase.store(Phase::recovering);
  const MutexLock lock(parts_->moving.mutex);
  for (std::uint32_t i = 0; i < parts_->groups->limit(); ++i) {
    Pool* const pool = parts_->pools.find(GroupId{static_cast<std::uint16_t>(i)});
    if (pool != nullptr) pool->hand_over();
  }
}

Result<GroupUse> Contents::group(std::string_view name) {
  const auto id = parts_->groups->acquire(name);
  if (!id) return std::unexpected(id.error());
  return GroupUse(parts_->groups, *id);
}

ContentHash Contents::hash(GroupId group, const PageCopy& page) const noexcept {
  const PageHasher* hasher = parts_->groups->hasher(group);
  ENSURE(hasher != nullptr);
  return ContentHash{parts_->hash(*hasher, page.bytes.data())};
}

namespace {
struct ReferenceScratch {
  PageCopy page;
};
}  // namespace

void prepare_to_read() {
  prepare_to_decode();
  (void)thread_scratch<ReferenceScratch>();
}

std::optional<Where> Parts::may_refer(ContentId reference, GroupId group) const noexcept {
  if (!knows(reference) || headers->group(reference) != group) return std::nullopt;
  const Where where = headers->where(reference);
  if (!readable(where) || where.has_reference()) return std::nullopt;
  return where;
}

const std::byte* Parts::reference_page(ContentId id, GroupId group) const noexcept {
  const auto where = may_refer(id, group);
  if (!where) return nullptr;
  const std::byte* const bytes = data(group, *where);
  if (where->form() == Form::raw) return bytes;
  std::byte* const page = thread_scratch<ReferenceScratch>().page.bytes.data();
  const bool decoded =
      store::decode(shape_of(*where), {bytes, where->extent().length}, nullptr, page);
  return decoded ? page : nullptr;
}

bool Parts::decode(ContentId id, Where where, std::byte* out) const noexcept {
  const std::byte* reference = nullptr;
  if (where.has_reference()) {
    reference = reference_page(headers->reference(id), headers->group(id));
    if (reference == nullptr) return false;
  }
  const std::byte* const bytes = data(headers->group(id), where);
  if (bytes == nullptr) return false;
  return store::decode(shape_of(where), {bytes, where.extent().length}, reference, out);
}

bool Parts::matches_checksum(ContentId id, const std::byte* page) const noexcept {
  const PageHasher* hasher = groups->hasher(headers->group(id));
  return hasher != nullptr && hash(*hasher, page) == headers->hash(id);
}

void Parts::condemn(ContentId id, Where seen) noexcept {
  if (!headers->mark_bad(id, seen)) return;
  corrupt.add();
  index->remove(headers->hash(id), id);
}

void Parts::condemn_damaged(ContentId reference, ContentId of) noexcept {
  const GroupId group = headers->group(of);
  const auto where = may_refer(reference, group);
  if (!where) return;
  const std::byte* const page = reference_page(reference, group);
  if (page == nullptr || !matches_checksum(reference, page)) condemn(reference, *where);
}

Got Contents::get(GroupId group, ContentId id, std::byte* out, FetchTicket) noexcept {
  if (id == kZeroContent) {
    std::memset(out, 0, kPageSize);
    return Got::done;
  }
  Parts& parts = *parts_;
  const PageHasher* const hasher = parts.groups->hasher(group);
  if (hasher == nullptr || !parts.knows(id)) return Got::corrupt;
  ContentNotes& notes = parts.headers->notes(id);
  __builtin_prefetch(&notes, 1);
  Where where;
  {
    const Readers::Section section(parts.readers);
    where = parts.headers->where(id);
    // A content of another group is refused and left as it is (I5).
    if (!parts.readable(where) || !parts.belongs(id, group)) return Got::corrupt;
    parts.prefetch(group, where);
    TEST_POINT("store.get");
    // The hash uses the seed of the caller's group. If the id gets a content of another group
    // meanwhile, the hash does not match.
    if (parts.decode(id, where, out) && parts.hash(*hasher, out) == parts.headers->hash(id)) {
      notes.note_read(parts.headers->now());
      return Got::done;
    }
    if (!parts.belongs(id, group)) return Got::corrupt;
    if (where.has_reference()) parts.condemn_damaged(parts.headers->reference(id), id);
  }
  parts.condemn(id, where);
  return Got::corrupt;
}

// About a quarter of an echo, which takes 11.6 us (docs/design.md, "Forms"). So it pays to bring
// neighbours back if the guest touches one of four.
constexpr double kQuickNs = 3'000;

bool Contents::is_quick(ContentId id) const noexcept {
  if (id == kZeroContent) return true;
  const Parts& parts = *parts_;
  if (!parts.knows(id)) return false;
  const Where where = parts.headers->where(id);
  if (!parts.readable(where)) return false;
  double ns = typical_decode_ns(shape_of(where));
  if (where.has_reference()) {
    const ContentId reference = parts.headers->reference(id);
    if (!parts.knows(reference)) return false;
    const Where of_reference = parts.headers->where(reference);
    if (!parts.readable(of_reference)) return false;
    ns += typical_decode_ns(shape_of(of_reference));
  }
  return ns <= kQuickNs;
}

Booked Contents::drop(GroupId group, ContentId id) noexcept {
  return id == kZeroContent ? Booked::done : parts_->drop(group, id);
}

bool Contents::is_stopped(GroupId group) const noexcept { return parts_->is_stopped(group); }

Booked Parts::drop(GroupId group, ContentId id) noexcept {
  if (!belongs(id, group)) {  // a wrong id: there is nothing to give up
    miscounted.add();
    return Booked::refused;
  }
  const Where where = headers->where(id);  // after the drop the id may have another content
  account(where, group, -1);               // after the drop the group may be wiped
  const HeaderTable::Dropped dropped = headers->drop_reference(id);
  if (dropped == HeaderTable::Dropped::none_left) {
    account(where, group, 1);
    note_underflow(group, id);
    return Booked::refused;
  }
  if (dropped == HeaderTable::Dropped::last) release_if_unused(id);
  return Booked::done;
}

// The cause, while recovering: the word was never counted. Otherwise: a reference was dropped
// twice. So a count of the group is too low, perhaps that of this content. A content that is freed
// at 0 could still have a reader, whose id would then name another content. So nothing of the group
// is freed, and nothing is put into it, before the next recovery counts anew. (While recovering
// nothing is freed anyway; the pin keeps this content afterwards, too.)
void Parts::note_underflow(GroupId group, ContentId id) noexcept {
  headers->pin(id);
  miscounted.add();
  if (phase.load(std::memory_order_seq_cst) == Phase::recovering) return;
  stop(group);
}

void Parts::stop(GroupId group) noexcept {
  const std::size_t word = group.value / 64;
  if (word >= stopped_groups.size()) return;
  stopped_groups[word].fetch_or(std::uint64_t{1} << (group.value % 64), std::memory_order_seq_cst);
}

void Parts::free(Extent at, GroupId group) noexcept {
  if (!arena->free(at)) miscount(group);
}

void Parts::free_place(Where where, GroupId group, ContentId of) noexcept {
  if (where.place() == Place::arena) return free(where.extent(), group);
  Pool* const pool = pools.find(group);
  if (pool == nullptr || !pool->retire(where.slot(), of)) miscount(group);
}

void Parts::settle() noexcept {
  moving.mutex.is_held();
  if (moving.left.empty()) return;
  readers.wait();
  for (const Moving::Left& left : moving.left) {
    TEST_POINT("reform.free");
    free_place(left.where, left.group, left.id);
    if (left.reference != kZeroContent) drop_dependence(left.reference);
    drop_uncounted(left.id);
  }
  moving.left.clear();
}

void Parts::account(Where where, GroupId group, std::int64_t references) noexcept {
  if (!where.sound(arena->size()) || groups->hasher(group) == nullptr) return;
  usage.add_references(group, where.form(), references);
}

void Parts::drop_uncounted(ContentId id) noexcept {
  const HeaderTable::Dropped dropped = headers->drop_reference(id);
  if (dropped == HeaderTable::Dropped::none_left) return note_underflow(headers->group(id), id);
  if (dropped == HeaderTable::Dropped::last) release_if_unused(id);
}

// The count fell to 0 before this function reads the phase. The sweep sets the phase before it
// reads the counts. So at least one of the two sees both, and frees the content; if both do,
// claim_dead() lets only one of them go on.
void Parts::release_if_unused(ContentId id) noexcept {
  if (phase.load(std::memory_order_seq_cst) == Phase::recovering) return;
  // The last reference was that of a hold, so one was dropped too often.
  if (holds.has(id)) return note_underflow(headers->group(id), id);
  if (is_stopped(headers->group(id)) || !headers->claim_dead(id)) return;
  const Where where = headers->where(id);
  // A content with a damaged header keeps its id and its bytes: they may help to find the cause,
  // and the bytes that the header names may be those of another content.
  if (!readable(where)) return;
  if (!headers->is_intact(id, where)) return corrupt.add();
  const GroupId group = headers->group(id);
  if (groups->hasher(group) == nullptr) return;
  const ContentId reference = where.has_reference() ? headers->reference(id) : kZeroContent;
  usage.remove_content(group, where.form(), where.extent().length);
  index->remove(headers->hash(id), id);
  TEST_POINT("store.drop");
  headers->clear(id);
  TEST_POINT("store.drop.cleared");
  free_place(where, group, id);
  headers->give_back(id);
  if (reference != kZeroContent) drop_dependence(reference);
  groups->release(group);
}

// No recursion beyond this: a reference has no reference itself.
void Parts::drop_dependence(ContentId reference) noexcept {
  headers->notes(reference).remove_dependent();
  drop_uncounted(reference);
}

Ref Contents::share(GroupId group, ContentId id) noexcept {
  if (id == kZeroContent) return Ref(*this, group, id);
  Parts& parts = *parts_;
  if (!parts.belongs(id, group)) return {};
  parts.headers->add_reference(id);
  parts.account(parts.headers->where(id), group, 1);
  return Ref(*this, group, id);
}

Form Contents::form(ContentId id) const noexcept {
  return id == kZeroContent ? Form::zero : parts_->headers->where(id).form();
}

void Contents::trim() noexcept {
  constexpr std::uint32_t kLooks = 4096;  // 0.4 ms if each of them is a cache miss
  parts_->tend_pools(kLooks);
  parts_->arena->trim();
}
void Contents::trim_all() noexcept {
  parts_->tend_pools(std::numeric_limits<std::uint32_t>::max());
  parts_->arena->trim_all();
  parts_->twins.forget();
}

Stats Contents::stats() const {
  const Parts& parts = *parts_;
  Stats stats;
  for (std::uint32_t i = 0; i < parts.groups->limit(); ++i) {
    const GroupId id{static_cast<std::uint16_t>(i)};
    if (parts.groups->hasher(id) == nullptr) continue;
    GroupStats& group = stats.groups.emplace_back();
    group.group = id;
    group.name = parts.groups->name(id);
    for (std::size_t form = 0; form < kForms; ++form) {
      const FormStats sum = parts.usage.sum(group.group, static_cast<Form>(form));
      group.forms[form] = sum;
      stats.forms[form].contents += sum.contents;
      stats.forms[form].references += sum.references;
      stats.forms[form].stored.value += sum.stored.value;
      stats.arena_stored.value += sum.stored.value;
    }
    const Readers::Section section(parts_->readers);
    const Pool* const pool = parts.pools.find(id);
    if (pool == nullptr) continue;
    group.pool_allocated = pool->allocated();
    stats.pool_allocated.value += group.pool_allocated.value;
    stats.pool_stored.value += pool->stored().value;
    stats.pool_mappings += pool->mappings();
    stats.slab_map_bytes.value += pool->map_bytes().value;
  }
  // The usage of a group counts its contents in both places.
  stats.arena_stored.value -= std::min(stats.arena_stored.value, stats.pool_stored.value);
  stats.arena_max = parts.arena->size();
  stats.arena_allocated = parts.arena->allocated();
  stats.arena_in_slots = parts.arena->in_slots();
  stats.header_bytes = parts.headers->persistent_bytes();
  stats.note_bytes = parts.headers->note_bytes();
  stats.index_bytes = ByteCount{parts.index->bytes().value + parts.twins.bytes().value};
  stats.slab_map_bytes.value += parts.arena->map_bytes().value;
  stats.similarity_bytes = ByteCount{parts.similarity_bytes.get()};
  stats.corrupt = parts.corrupt.get();
  stats.collisions = parts.collisions.get();
  stats.unindexed = parts.index->unindexed();
  stats.miscounted = parts.miscounted.get();
  return stats;
}

}  // namespace ramfold::store
