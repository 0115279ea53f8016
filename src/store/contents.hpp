// SPDX-License-Identifier: GPL-2.0-or-later
// The store of contents: every distinct page value is kept once, in the cheapest form, under a
// stable ContentId with a reference count. It knows no VM and no page of a VM.
//
// Truth. What must outlive the daemon is in three memory files (docs/store-format.md): headers,
// arena bytes and the table of groups. The index, reference counts, free lists, arena maps and
// statistics are derived; after a restart get() works at once and the rest is rebuilt behind it.
//
// Threads: everything may be called from any thread at any time unless a comment says otherwise.
//   put() by fold workers, get() and drop() by fault threads, count() by the scan of the page
//   tables. get() takes no lock and allocates nothing. drop() allocates nothing; its locks are
//   never held over a system call.
// Invariants:
//   I1. Who calls get(id) or drop(id) owns a reference to id (a Ref, or a page's word while that
//   page is
//       owned), so a content that is being read cannot be freed.
//   I2. The bytes of a content are in the arena, were read back, decoded and compared before its
//   header
//       is published; the header is published before put() returns.
//   I3. Every decode is verified against the checksum in the header. What does not match is never
//       returned: the content is marked bad, for ever, and nothing is shared with it any more.
//   I4. A content is only ever shared within its group, and only after comparing the bytes.
//   I5. Whoever names a content says its group too. A content of another group is refused, so that
//       a wrong id is the trouble of nobody but its owner. kZeroContent belongs to all groups.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

#include "base/page_copy.hpp"
#include "base/result.hpp"
#include "base/types.hpp"
#include "store/admit.hpp"
#include "store/content_source.hpp"
#include "store/files.hpp"
#include "store/form.hpp"
#include "store/group.hpp"
#include "store/hash.hpp"

namespace ramfold::store {

struct Parts;  // parts.hpp
struct Stats;  // stats.hpp

struct PutResult {
  Ref ref;               // none: the page was not admitted, and nothing has changed
  bool existed = false;  // a content with these bytes was there already (always so for zeros)
  Form form = Form::zero;
};

struct PutRequest {
  const PageCopy* page = nullptr;
  ContentHash hash{};
  // With Admit::shared, which page asks: a number that no other page has at the same time.
  std::uint64_t origin = 0;
};

class Contents final : public ContentSource {
 public:
  using Files = StoreFiles;
  static constexpr std::size_t kPutRunMax = 16;  // pages: 64 KiB, what stays in the cache

  // An empty store that may grow to `arena_max` bytes of encoded pages (at most 1 TiB). Sparse: an
  // empty store costs some pages.
  static Result<std::unique_ptr<Contents>> create(ByteCount arena_max, HashFunction hash = nullptr);
  // After a restart. Takes time independent of the size of the store; the store is then recovering
  // (below). An Error: the files are not a store of this version.
  static Result<std::unique_ptr<Contents>> adopt(Files files, HashFunction hash = nullptr);
  ~Contents() override;

  const Files& files() const noexcept { return files_; }

  // The group of that name, made when it is new. It lives while somebody holds a use of it or a
  // content is in it; afterwards the same name is another group, of another seed. Errors: EINVAL a
  // name that is empty or longer than kGroupNameMax, ENOSPC kGroupsMax groups are in use. Works
  // while recovering.
  Result<GroupUse> group(std::string_view name);
  // REQUIRES, as for all that take a group: the caller holds a use of it.
  ContentHash hash(GroupId group, const PageCopy& page) const noexcept;

  // Keeps a page, or finds it. `hash` is hash(group, page). Errors: EAGAIN recovering; ENOSPC the
  // arena or the ids are used up; ENOMEM the host has no memory to back it; EINVAL the hash is not
  // the page's; EIO what was stored did not decode to the page; EUCLEAN the group's references do
  // not add up (is_stopped).
  Result<PutResult> put(GroupId group, const PageCopy& page, ContentHash hash);
  // The same for up to kPutRunMax pages, faster a page: memory is prefetched ahead.
  // REQUIRES: out.size() == requests.size().
  void put_run(GroupId group, std::span<const PutRequest> requests,
               std::span<Result<PutResult>> out, Admit admit = Admit::all);

  Got get(GroupId group, ContentId id, std::byte* out, FetchTicket ticket) noexcept override;
  Booked drop(GroupId group, ContentId id) noexcept override;
  // One more reference; none where the content is not the group's. REQUIRES: the caller owns one
  // already.
  Ref share(GroupId group, ContentId id) noexcept;
  // A reference to a content of this group was given up that nobody had. Nothing is put into the
  // group any more, or taken for unused; all that is there can be read. Until the next recovery,
  // which counts anew.
  bool is_stopped(GroupId group) const noexcept;

  // Recovery, behind the faults. After adopt(): get() works; put() says EAGAIN; drop() counts down
  // and frees nothing. Count once, with count(), every word that names a content, then finish. A
  // word's reference may be dropped only after that word was counted: whoever clears a word that
  // the scan has not reached yet must not call drop() for it (the scan will not see it).
  bool recovering() const noexcept;
  Booked count(GroupId group, ContentId id) noexcept;
  // Rebuilds index, arena maps and free lists from the headers and frees every content that nobody
  // counted. Takes long (about 3 s per 10 million contents); one caller. A process killed anywhere
  // in here leaves a store that adopt() takes again. An Error: there is no memory for the index;
  // the store is still recovering, call it again.
  Status finish_recovery();

  // How a content is kept at this moment. REQUIRES: the caller owns a reference.
  Form form(ContentId id) const noexcept;

  // Gives memory back to the host that holds nothing and that nobody wanted again for some calls.
  // Cheap when there is none; for a housekeeping thread, a few times a second, so that fault
  // threads need not do it.
  void trim() noexcept;
  // Also those kept for reuse: nothing of a page that was dropped stays behind.
  void trim_all() noexcept;

  // From now on drop() frees nothing and no group goes: what this store's files hold is about to be
  // another process's, which sweeps what nobody needs. put() says EAGAIN. REQUIRES: nobody recovers
  // or reforms any more.
  void hand_over() noexcept;

  // Walks counters, not contents.
  Stats stats() const;

 private:
  friend class Reformer;  // store/reform: the one who moves what is kept here

  Contents(Files files, std::unique_ptr<Parts> parts) noexcept;

  Files files_;
  std::unique_ptr<Parts> parts_;
};

}  // namespace ramfold::store
