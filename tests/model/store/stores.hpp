// SPDX-License-Identifier: GPL-2.0-or-later
// Steps with a whole store that several of its tests take.
#pragma once

#include <unistd.h>
#include <cstdint>

#include "base/page_copy.hpp"
#include "pages.hpp"
#include "store/contents.hpp"
#include "store/pool/slot.hpp"
#include "store/stats.hpp"

namespace ramfold::store::test {

struct Sums {
  std::uint64_t contents = 0;
  std::uint64_t references = 0;
  std::uint64_t referring = 0;  // contents that need another
};
inline Sums sums_of(const Stats& stats) noexcept {
  Sums sums;
  for (const FormStats& form : stats.forms) {
    sums.contents += form.contents;
    sums.references += form.references;
  }
  sums.referring = stats.forms[static_cast<std::size_t>(Form::patch)].contents +
                   stats.forms[static_cast<std::size_t>(Form::delta)].contents;
  return sums;
}

inline PutResult put(Contents& store, GroupId group, const PageCopy& page) {
  return must(store.put(group, page, store.hash(group, page)));
}

// What a store's first call of group() makes.
inline constexpr GroupId kFirstGroup{0};

inline bool holds(Contents& store, ContentId id, const PageCopy& page,
                  GroupId group = kFirstGroup) {
  PageCopy out;
  return store.get(group, id, out.bytes.data(), {}) == Got::done && out.bytes == page.bytes;
}

// What a QEMU of the group reads in a slot of the pool.
inline bool slot_holds(int pool, PoolSlot slot, const PageCopy& page) {
  PageCopy seen;
  const off_t at = std::int64_t{slot.value} * 4096;
  return ::pread(pool, seen.bytes.data(), kPageSize, at) == kPageSize && seen.bytes == page.bytes;
}

inline Contents::Files copy_of(const Contents::Files& files) {
  Contents::Files copy{must(files.contents.duplicate()),
                       must(files.arena.duplicate()),
                       must(files.groups.duplicate()),
                       {}};
  for (const PoolFile& pool : files.pools)
    copy.pools.push_back({pool.group, must(pool.file.duplicate()), pool.id});
  return copy;
}

// What a daemon finds after a restart: the same files, nothing else.
inline Contents::Files same_files(const Contents& store) {
  return {must(store.files().contents.duplicate()), must(store.files().arena.duplicate()),
          must(store.files().groups.duplicate()), must(store.pool_files())};
}

}  // namespace ramfold::store::test
