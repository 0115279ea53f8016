// SPDX-License-Identifier: GPL-2.0-or-later
// The store of contents. It keeps every distinct page value of a group once, under a stable
// ContentId with a reference count, and knows neither VMs nor their pages.
//
// Truth. Three memory files outlive the daemon (docs/store-format.md): headers, arena bytes and the
// table of groups. Everything else is derived from them and from the page tables: the index,
// reference counts, free lists, arena maps and statistics. After a restart get() works at once,
// while the rest is rebuilt.
//
// Threads: everything may be called from any thread at any time unless a comment says otherwise.
// Fold workers call put(), fault threads get() and drop(), the recoverer count(). get() takes no
// lock and allocates nothing (after prepare_to_read()). drop() allocates nothing, and holds no lock
// over a system call.
// Invariants:
//   I1. The caller of get(id) or drop(id) owns a reference to id: a Ref, or the word of a page
//       that it owns. So a content that is being read cannot be freed.
//   I2. The bytes of a content are in the arena, and were read back, decoded and compared, before
//       its header is published. The header is published before put() returns.
//   I3. Every decoded page is compared with the checksum in the header. Bytes that do not match
//       are never returned: the content is marked bad for ever, and no page shares it any more.
//   I4. Pages share a content only within its group, and only after their bytes were compared.
//   I5. The caller names the group of a content, too. A content of another group is refused, so
//       a wrong id harms nobody but the VM that has it. kZeroContent belongs to all groups.
//   I6. A content is moved into a pool only while at least two pages name it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "base/page_copy.hpp"
#include "base/result.hpp"
#include "base/types.hpp"
#include "store/admit.hpp"
#include "store/content_source.hpp"
#include "store/files.hpp"
#include "store/form.hpp"
#include "store/group.hpp"
#include "store/hash.hpp"
#include "store/pool/slot.hpp"
#include "store/uncounted.hpp"

namespace ramfold::store {

struct Parts;  // parts.hpp
struct Stats;  // stats.hpp

struct PutResult {
  Ref ref;               // empty: the page was not admitted, and nothing has changed
  bool existed = false;  // a content with these bytes existed before (always true for zeros)
  Form form = Form::zero;
};

struct PutRequest {
  const PageCopy* page = nullptr;
  ContentHash hash{};
  // For Admit::shared: a number of the page that asks, different from that of every other page.
  std::uint64_t origin = 0;
};

class Contents final : public ContentSource {
 public:
  using Files = StoreFiles;
  static constexpr std::size_t kPutRunMax = 64;

  // An empty store that may grow to `arena_max` bytes of encoded pages (at most 1 TiB). Its files
  // are sparse: an empty store takes a few pages of memory.
  static Result<std::unique_ptr<Contents>> create(ByteCount arena_max, HashFunction hash = nullptr);
  // After a restart. Takes the same time for every size of store. The store is then recovering (see
  // below). An Error: the files are no store of this version.
  static Result<std::unique_ptr<Contents>> adopt(Files files, HashFunction hash = nullptr);
  ~Contents() override;

  const Files& files() const noexcept { return files_; }

  // How often daemons took over VMs whose pages are in this store. The number is in its files.
  std::uint32_t take_overs() const noexcept;
  void note_take_over() noexcept;  // one thread, after adopt()

  // A use of the group with this name; makes the group when there is none. A group lives while it
  // has a use or a content. Afterwards the same name gives another group, with another seed.
  // Errors: EINVAL the name is empty or longer than kGroupNameMax; ENOSPC kGroupsMax groups are in
  // use. Works while recovering.
  Result<GroupUse> group(std::string_view name);
  // REQUIRES, as all functions that take a group: the caller holds a use of the group.
  ContentHash hash(GroupId group, const PageCopy& page) const noexcept;

  // Finds the content that equals the page, or stores the page. `hash` is hash(group, page).
  // Errors: EAGAIN the store is recovering; ENOSPC the arena or the ids are used up; ENOMEM the
  // host has no memory left; EINVAL `hash` is not the page's; EIO the stored bytes did not decode
  // to the page; EUCLEAN the group is stopped (is_stopped).
  Result<PutResult> put(GroupId group, const PageCopy& page, ContentHash hash);
  // The same for up to kPutRunMax pages. Takes less time for each page, because memory is
  // prefetched.
  // REQUIRES: out.size() == requests.size().
  void put_run(GroupId group, std::span<const PutRequest> requests,
               std::span<Result<PutResult>> out, Admit admit = Admit::all);

  Got get(GroupId group, ContentId id, std::byte* out, FetchTicket ticket) noexcept override;
  bool is_quick(ContentId id) const noexcept override;
  Booked drop(GroupId group, ContentId id) noexcept override;
  // One more reference; empty when the content is not of this group. REQUIRES: the caller owns a
  // reference already.
  Ref share(GroupId group, ContentId id) noexcept;
  // True after a reference to a content of this group was given up that nobody owned. From then on
  // nothing is put into the group, and nothing of it is freed, until the next recovery counts anew.
  // All its contents can still be read.
  bool is_stopped(GroupId group) const noexcept;

  // Recovery runs while faults are served. After adopt(), get() works, put() returns EAGAIN, and
  // drop() counts down and frees nothing. Call count() once for every word that names a content,
  // then finish_recovery(). If words of some groups are not counted by then, name these groups. The
  // store holds all that it has of such a group: no content of it is freed and no id of it is
  // reused, until narrow() says that the words of the group are counted, or gone. Meanwhile count()
  // may be called for them, by the thread that calls narrow(). REQUIRES: a word's reference is
  // dropped only after the word was counted. So a thread that clears a word which is not counted
  // yet must not call drop() for it.
  bool recovering() const noexcept;
  Booked count(GroupId group, ContentId id) noexcept;
  // Rebuilds index, arena maps and free lists from the headers, and frees every content without a
  // counted reference. Takes about 3 s for 10 million contents; one caller. If the process is
  // killed in here, adopt() can take the store again. An Error: there is no memory for the index;
  // the store is still recovering, call this again, with the same groups.
  Status finish_recovery(const Uncounted& uncounted = {});
  // After finish_recovery(): only words of these groups are not counted yet. Frees the contents of
  // the other groups that only the store held. REQUIRES: no group is named that was not named
  // before; the caller is that of finish_recovery().
  void narrow(const Uncounted& still);
  // Some words of this group, or of any group, are not counted. Until then no pool of it is made,
  // and no slot of it is given out or freed.
  bool has_uncounted(GroupId group) const noexcept;
  bool has_uncounted() const noexcept;

  // Mapped sharing (store/pool/pool.hpp). Guests of a group map contents of the group's pool.
  //
  // Makes the pool of the group, if there is none. `kept` is for the keeper, which must have it
  // before the first share_run(); `read_only` is for QEMUs of the group. No QEMU that runs as the
  // daemon's user may get it, because it could open the file for writing. Errors: EAGAIN there is
  // none and the store is recovering, or has_uncounted(group); EUCLEAN the entry of the group is
  // damaged; ENOTSUP the store is of a version without pools; ENOENT there is none, and none is to
  // be made.
  struct PoolFiles {
    PoolFile kept;
    sys::Fd read_only;
  };
  enum class MakePool : bool { no, yes };
  Result<PoolFiles> pool(GroupId group, MakePool make = MakePool::yes);
  // All pools. The keeper may forget other pools that it has.
  Result<std::vector<PoolFile>> pool_files() const;
  static constexpr std::size_t kShareRunMax = 64;
  // Moves each content into the pool, unless it is there, and counts a mapping of the slot that is
  // returned. Contents that come in one call get adjacent slots where possible. Call it before the
  // command to map the slot is sent. REQUIRES: out.size() == ids.size() <= kShareRunMax; the caller
  // owns a reference to each content, which is that of the page to be mapped.
  // Errors: EPERM fewer than two pages name the content, so it must not be read by QEMUs; EAGAIN
  // the store is recovering, or the mappings are not known, or the content changed at this moment;
  // EINVAL it is no content of the group, or the page of zeros, or there is no such group; ENOENT
  // the group has no pool; ENOSPC, ENOMEM, EIO, EUCLEAN as put().
  void share_run(GroupId group, std::span<const ContentId> ids, std::span<Result<PoolSlot>> out);
  // At least two pages name the content, so share_run() may take it. A hint: pages come and go.
  bool is_shared(GroupId group, ContentId id) const noexcept;
  // A mapping that share_run() or note_mapping() counted has ended: the page does not map the slot,
  // no command to map it is under way, and nobody has pinned the slot through it (D1, D10, D12).
  // refused: none was counted. Then the group is stopped.
  Booked unmap(GroupId group, PoolSlot slot) noexcept;
  // After adopt(), before mappings_known(): a page maps this slot, and its word names the content.
  // refused: the mapping is counted, but the slot has not the content's bytes, so the page is
  // damaged. Errors, then nothing is counted: ENOENT there is no such slot, or the group has no
  // pool; EOVERFLOW it has more mappings than are ever made, so the group is stopped.
  Result<Booked> note_mapping(GroupId group, ContentId id, PoolSlot slot) noexcept;
  // After finish_recovery(): commands of earlier daemons have no effect any more (the fence), and
  // note_mapping() was called for every mapping of every VM of the group. From now on slots of its
  // pool are given out and freed. Does nothing for a group without a pool. Errors: EAGAIN the store
  // is recovering, or has_uncounted(group); others: call it again.
  Status mappings_known(GroupId group);

  // The form of a content at this moment. REQUIRES: the caller owns a reference.
  Form form(ContentId id) const noexcept;

  // Moves contents that are shared no more out of the pools, and frees slots that nobody maps.
  // Gives memory of the arena back to the host that has been unused during some calls of trim().
  // Cheap when there is none. For a housekeeping thread, a few times a second, so that fault
  // threads need not do it.
  void trim() noexcept;
  // Gives back also the arena's memory that is kept for reuse, and forgets the twins. When the
  // store is empty, no byte of a page remains in it.
  void trim_all() noexcept;

  // For a process that leaves its files to another process, which will count references itself.
  // From now on drop() frees nothing, no group is wiped, and put() returns EAGAIN. REQUIRES:
  // neither a recovery nor a reformer is running.
  void hand_over() noexcept;

  // Adds up counters; does not walk over contents.
  Stats stats() const;

 private:
  friend class Reformer;  // store/reform: changes the forms and places of contents

  Contents(Files files, std::unique_ptr<Parts> parts) noexcept;

  Files files_;
  std::unique_ptr<Parts> parts_;
};

}  // namespace ramfold::store
