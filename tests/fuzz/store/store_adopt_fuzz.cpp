// SPDX-License-Identifier: GPL-2.0-or-later
// A store whose files were damaged anywhere is either refused by adopt() or serves what it can:
// nothing crashes, no wrong byte is returned as `done`, and what is stored afterwards is not harmed
// by the damage.
//
// Input: pieces of damage, each 16 bytes {kind, 3 unused, place: u32, value: u64}, in any number.
// With an odd number of bytes nothing is read before it is dropped (a reader would find the damage
// first).
#include <fcntl.h>
#include <sys/mman.h>
#include <array>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <vector>

#include "greedy.hpp"
#include "pages.hpp"
#include "store/hash.hpp"
#include "store/layout.hpp"
#include "stores.hpp"
#include "sys/memory.hpp"

using namespace ramfold;
using namespace ramfold::store;
using namespace ramfold::store::test;

namespace {

constexpr std::uint64_t kPages = 120;
constexpr std::size_t kHeadersKept = 4096;  // bytes of headers that are restored for each input
constexpr ByteCount kArena{4u << 20};
constexpr ByteCount kPoolKept{64 * kPageSize};

// Few size classes, so that slabs hold several contents; half of the pages have a relative in their
// group.
PageCopy page_at(std::uint64_t number) {
  if (number % 4 >= 2) return kin_of(number / 24 * 2 + number % 2, number);
  return page_of(number, number % 8 == 5 ? kPageSize : number % 8 * 300);
}

constexpr std::uint64_t kEnoughNs = 60'000'000'000;

void require(bool ok) {
  if (!ok) std::abort();
}

GroupId group_of(std::uint64_t page) { return GroupId{static_cast<std::uint16_t>(page % 2)}; }

// The files of a good store and a copy of all that damage may reach.
struct Pristine {
  Contents::Files files;
  std::vector<ContentId> ids;
  sys::Mapping contents;
  sys::Mapping arena;
  sys::Mapping groups;
  std::array<sys::Mapping, 2> pools;  // of both groups
  std::vector<std::byte> contents_copy;
  std::vector<std::byte> group_ids_copy;
  std::vector<std::byte> references_copy;
  std::vector<std::byte> arena_copy;
  std::vector<std::byte> groups_copy;
  std::array<std::vector<std::byte>, 2> pool_copies;
  ContentsLayout layout{contents_max_for(kArena)};

  Pristine() {
    auto store = must(Contents::create(kArena));
    const GroupUse groups_of_store[2] = {must(store->group("a")), must(store->group("b"))};
    for (std::uint64_t i = 0; i < kPages * 2 / 3; ++i) {
      ids.push_back(put(*store, groups_of_store[i % 2], page_at(i)).ref.release());
    }
    // One round makes patches, the next zstd of what is left; a third of the pages came after both.
    auto reformer = must(Reformer::make(*store));
    ReformPolicy policy = greedy();
    policy.dense = false;
    (void)reformer->step(policy, 1000, kEnoughNs);
    for (std::uint64_t i = kPages * 2 / 3; i < kPages; ++i) {
      ids.push_back(put(*store, groups_of_store[i % 2], page_at(i)).ref.release());
    }
    (void)reformer->step(greedy(), 1100, kEnoughNs);
    for (std::uint64_t i = 0; i < kPages; i += 5) share(*store, groups_of_store[i % 2], i);
    const Stats stats = store->stats();
    require(stats.pool_stored.value > 8 * kPageSize);
    for (const Form form : {Form::raw, Form::zstd, Form::patch, Form::delta}) {
      require(stats.forms[static_cast<std::size_t>(form)].contents > 0);
    }
    files = same_files(*store);
    require(files.pools.size() == pools.size());
    contents = must(sys::Mapping::shared(files.contents, ByteCount{layout.end}));
    arena = must(sys::Mapping::shared(files.arena, kArena));
    groups = must(sys::Mapping::shared(files.groups, must(sys::file_size(files.groups))));
    contents_copy.assign(contents.data(), contents.data() + kPageSize + kHeadersKept);
    group_ids_copy.assign(contents.data() + layout.groups,
                          contents.data() + layout.groups + kPageSize);
    references_copy.assign(contents.data() + layout.references,
                           contents.data() + layout.references + kPageSize);
    // Up to the last content: behind the slabs' ends there is no memory.
    const std::byte* end = arena.data() + arena.size();
    while (end != arena.data() && end[-1] == std::byte{0}) --end;
    arena_copy.assign(static_cast<const std::byte*>(arena.data()), end);
    groups_copy.assign(groups.data(), groups.data() + 2 * kPageSize);
    for (std::size_t i = 0; i < pools.size(); ++i) {
      pools[i] = must(sys::Mapping::shared(files.pools[i].file, kPoolKept));
      pool_copies[i].assign(pools[i].data(), pools[i].data() + kPoolKept.value);
    }
  }
  // A second page names it, so that it may lie in the pool.
  void share(Contents& store, const GroupUse& group, std::uint64_t i) const {
    (void)must(store.pool(group));
    (void)put(store, group, page_at(i)).ref.release();
    Result<PoolSlot> slot;
    store.share_run(group, {&ids[i], 1}, {&slot, 1});
    (void)must(std::move(slot));
  }
  void restore() {
    std::memcpy(contents.data(), contents_copy.data(), contents_copy.size());
    // Headers that the last input added.
    std::memset(contents.data() + contents_copy.size(), 0,
                kIdChunk * sizeof(Header) - kHeadersKept);
    std::memcpy(contents.data() + layout.groups, group_ids_copy.data(), group_ids_copy.size());
    std::memcpy(contents.data() + layout.references, references_copy.data(),
                references_copy.size());
    std::memcpy(arena.data(), arena_copy.data(), arena_copy.size());
    std::memcpy(groups.data(), groups_copy.data(), groups_copy.size());
    for (std::size_t i = 0; i < pools.size(); ++i) {
      std::memcpy(pools[i].data(), pool_copies[i].data(), pool_copies[i].size());
    }
  }
};

struct Damage {
  std::uint8_t kind;
  std::uint8_t unused[3];
  std::uint32_t place;
  std::uint64_t value;
};
static_assert(sizeof(Damage) == 16);

void inflict(Pristine& p, const Damage& d) {
  const auto xor_at = [&](std::byte* base, std::size_t size, std::uint64_t value) {
    std::uint64_t word = 0;
    std::byte* at = base + d.place % (size - sizeof word);
    std::memcpy(&word, at, sizeof word);
    word ^= value;
    std::memcpy(at, &word, sizeof word);
  };
  auto* headers = reinterpret_cast<Header*>(p.contents.data() + p.layout.headers);
  Header& header = headers[d.place % (kPages + 8)];
  const std::uint64_t other = headers[(d.value >> 8) % (kPages + 8)].where.load();
  // Most stores with a damaged superblock are refused, so that is rare.
  switch (d.kind < 254 ? d.kind % 13 : d.kind - 241) {
    case 0: header.where.store(d.value); break;
    case 1: header.where.store(header.where.load() ^ std::uint64_t{1} << (d.value % 64)); break;
    case 2: header.where.store(other); break;
    case 3: header.where.store(other ^ std::uint64_t{1} << (d.value % 64)); break;
    case 4: header.hash.store(header.hash.load() ^ d.value); break;
    case 5: header.where.store(0); break;
    case 6: xor_at(p.contents.data() + p.layout.groups, 512, d.value); break;
    case 7: xor_at(p.arena.data(), p.arena_copy.size(), d.value); break;
    case 8: xor_at(p.groups.data(), 2 * kPageSize, d.value); break;
    case 10: xor_at(p.contents.data() + p.layout.references, 512, d.value % 256); break;
    case 11: xor_at(p.pools[d.value % 2].data(), kPoolKept.value, d.value); break;
    case 12:  // a slot of the pool, perhaps another's or a hole
      header.where.store(Where::in_pool(PoolSlot{1 + d.place / 256 % 40}).bits());
      break;
    case 13: xor_at(p.contents.data(), 80, d.value); break;
    case 14: {  // a superblock that was damaged before its checksum was made
      xor_at(p.contents.data(), 40, d.value);
      auto& block = *p.contents.as<Superblock>();
      block.checksum = plain_checksum({p.contents.data(), offsetof(Superblock, checksum)});
      break;
    }
    case 9:  // another header's hash, or all of it
      header.hash.store(headers[d.value % (kPages + 8)].hash.load());
      if (d.value >> 63 != 0) header.where.store(headers[d.value % (kPages + 8)].where.load());
      break;
  }
}

// What a daemon does after a restart, over the damage. False when the store was refused.
bool live(Pristine& p, bool reads) {
  auto adopted = Contents::adopt(copy_of(p.files));
  if (!adopted) return false;
  Contents& store = **adopted;
  PageCopy out;
  const auto right_or_corrupt = [&](std::uint64_t i) {
    const Got got = store.get(group_of(i), p.ids[i], out.bytes.data(), {});
    require(got != Got::done || out.bytes == page_at(i).bytes);
  };
  for (std::uint64_t i = 0; reads && i < kPages; i += 3) right_or_corrupt(i);
  for (std::uint64_t i = 0; i < kPages; ++i) {
    if (i % 5 != 0) (void)store.count(group_of(i), p.ids[i]);  // every fifth is left for the sweep
  }
  // Some pages map the slot that their content had; some slots are nobody's.
  for (std::uint32_t i = 0; i < kPages; i += 10) {
    (void)store.note_mapping(group_of(i), p.ids[i], PoolSlot{1 + i / 10});
  }
  must(store.finish_recovery());
  for (const std::uint64_t page : {0u, 1u}) must(store.mappings_known(group_of(page)));
  store.trim_all();
  auto reformer = must(Reformer::make(store));
  (void)reformer->step(greedy(), 5000, kEnoughNs);
  std::vector<Ref> refs;
  std::vector<std::uint64_t> numbers;
  const auto group = store.group("c");
  for (std::uint64_t i = 1000; group && i < 1060; ++i) {
    const PageCopy page = page_at(i);
    auto result = store.put(*group, page, store.hash(*group, page));
    if (!result) continue;  // the damage may have used up the arena
    refs.push_back(std::move(result->ref));
    numbers.push_back(i);
    auto second = store.put(*group, page, store.hash(*group, page));
    if (i % 3 != 0 || !second || !store.pool(*group)) continue;
    Result<PoolSlot> slot;
    const ContentId id = refs.back().id();
    store.share_run(*group, {&id, 1}, {&slot, 1});
  }
  for (std::uint64_t i = 0; reads && i < kPages; ++i) {
    if (i % 5 != 0) right_or_corrupt(i);
  }
  (void)reformer->step(greedy(), 6000, kEnoughNs);
  for (std::uint64_t i = 0; i < kPages; ++i) {
    if (i % 5 != 0) (void)store.drop(group_of(i), p.ids[i]);
  }
  store.trim_all();
  (void)reformer->step(greedy(), 7000, kEnoughNs);
  for (std::size_t i = 0; i < refs.size(); ++i) {
    require(holds(store, refs[i].id(), page_at(numbers[i]), *group));
  }
  (void)store.stats();
  return true;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static Pristine pristine;
  pristine.restore();
  for (std::size_t at = 0; at + sizeof(Damage) <= size; at += sizeof(Damage)) {
    Damage damage;
    std::memcpy(&damage, data + at, sizeof damage);
    inflict(pristine, damage);
  }
  live(pristine, size % 2 == 0);
  return 0;
}
