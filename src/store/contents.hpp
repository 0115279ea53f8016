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

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/page_copy.hpp"
#include "base/result.hpp"
#include "base/types.hpp"
#include "sys/fd.hpp"

namespace ramfold::store {

// How a content is kept. The numbers are part of the format.
//   patch  the difference to another content, its reference (docs/patch-format.md): quick to decode
//   delta  zstd with the reference as prefix: denser
//   mix    literals and copies, coded by mixed contexts (docs/mix-format.md): densest, slow to
//          decode; mix_delta: with the page of a reference before it
// A reference belongs to the same group and is itself none of the forms that need one.
enum class Form : std::uint8_t {
  zero = 0,
  raw = 1,
  lz4 = 2,
  zstd = 3,
  patch = 4,
  delta = 5,
  mix = 6,
  mix_delta = 7
};
inline constexpr std::size_t kForms = 8;
constexpr std::string_view name_of(Form form) noexcept {
  constexpr std::array<std::string_view, kForms> kNames{"zero",  "raw",   "lz4", "zstd",
                                                        "patch", "delta", "mix", "mix_delta"};
  return kNames[static_cast<std::size_t>(form)];
}

enum class Got : std::uint8_t {
  done,     // the 4096 bytes are in the caller's buffer, checksum verified
  pending,  // they are on their way: call get() again after the listener heard of the ticket
  corrupt,  // they cannot be had (D14); the buffer holds garbage and must not be used
};

// What became of one reference. refused: there is no such content in the group, or it has no
// reference that could be given up: a bug or damage. Nothing was changed.
enum class Booked : std::uint8_t { done, refused };

// Who waits for a content that get() called pending: `listener->ready(ticket)` is called once, from
// any thread, when get() is worth calling again. The token is the caller's own.
struct FetchTicket;
class FetchListener {
 public:
  virtual void ready(FetchTicket ticket) noexcept = 0;

 protected:
  ~FetchListener() = default;
};
struct FetchTicket {
  FetchListener* listener = nullptr;
  std::uint64_t token = 0;
};

// Takes the memory that this thread's calls of get() work with; else the first of them does.
void prepare_to_read();

// What the fault path sees of the store. Tests wrap it (delays, pending, corrupt).
class ContentSource {
 public:
  virtual ~ContentSource() = default;

  // Writes the content's 4096 bytes to `out`. A content of another group is `corrupt` (I5).
  // REQUIRES: the caller owns a reference to `id` (I1).
  virtual Got get(GroupId group, ContentId id, std::byte* out, FetchTicket ticket) noexcept = 0;
  // Gives up one reference; the last one frees the content. Nothing happens for kZeroContent, which
  // is not counted. REQUIRES: the caller owned the reference, and no word names it any more.
  virtual Booked drop(GroupId group, ContentId id) noexcept = 0;
};

// One reference, dropped by the destructor unless it is released into a page's word.
class [[nodiscard]] Ref {
 public:
  Ref() noexcept = default;
  // Takes over a reference that the caller owns.
  Ref(ContentSource& source, GroupId group, ContentId id) noexcept
      : source_(&source), id_(id), group_(group) {}
  Ref(Ref&& other) noexcept
      : source_(std::exchange(other.source_, nullptr)), id_(other.id_), group_(other.group_) {}
  Ref& operator=(Ref&& other) noexcept {
    if (this != &other) {
      reset();
      source_ = std::exchange(other.source_, nullptr);
      id_ = other.id_;
      group_ = other.group_;
    }
    return *this;
  }
  ~Ref() { reset(); }

  explicit operator bool() const noexcept { return source_ != nullptr; }
  ContentId id() const noexcept { return id_; }
  // The reference now belongs to whoever wrote the returned id down.
  [[nodiscard]] ContentId release() noexcept {
    source_ = nullptr;
    return id_;
  }
  // `refused` is the store's to tell: it stops folding for the group.
  void reset() noexcept {
    if (source_ != nullptr) (void)std::exchange(source_, nullptr)->drop(group_, id_);
  }

 private:
  ContentSource* source_ = nullptr;
  ContentId id_{};
  GroupId group_{};
};

struct PutResult {
  Ref ref;
  bool existed = false;  // a content with these bytes was there already (always so for zeros)
  Form form = Form::zero;
};

struct PutRequest {
  const PageCopy* page = nullptr;
  ContentHash hash{};
};

struct FormStats {
  std::uint64_t contents = 0;
  std::uint64_t references = 0;
  ByteCount stored{};  // encoded bytes, without padding to the size class
};
struct GroupStats {
  GroupId group{};
  std::string name;
  std::array<FormStats, kForms> forms;
};
struct Stats {
  std::array<FormStats, kForms> forms;  // sums over the groups; zeros are not counted here
  std::vector<GroupStats> groups;
  ByteCount arena_max{};
  ByteCount arena_allocated{};  // the memory behind it, what is kept for reuse included
  ByteCount arena_in_slots{};   // slots in use, at the size of their class
  ByteCount arena_stored{};     // encoded bytes in them
  ByteCount header_bytes{};     // persistent metadata backed by host memory
  ByteCount note_bytes{};       // volatile reference counts and notes
  ByteCount index_bytes{};
  ByteCount slab_map_bytes{};
  ByteCount similarity_bytes{};  // index of references, see Reformer
  std::uint64_t corrupt = 0;     // contents marked bad; never freed before the next recovery
  std::uint64_t unindexed = 0;   // contents kept but not found as duplicates (index bounds)
  std::uint64_t collisions = 0;  // equal hash, different bytes
  // References that were refused: a bug or damage.
  std::uint64_t miscounted = 0;

  ByteCount metadata() const noexcept {
    return ByteCount{header_bytes.value + note_bytes.value + index_bytes.value +
                     slab_map_bytes.value + similarity_bytes.value};
  }
  // Share of the allocated arena that holds no encoded bytes.
  double fragmentation() const noexcept {
    if (arena_allocated.value == 0) return 0;
    return 1 - static_cast<double>(arena_stored.value) / static_cast<double>(arena_allocated.value);
  }
};

// Tests replace the hash to force collisions; nullptr is XXH3-64.
using HashFunction = std::uint64_t (*)(const std::byte* page, std::uint64_t seed) noexcept;

class Contents final : public ContentSource {
 public:
  // All truth of the store; the keeper holds duplicates of these.
  struct Files {
    sys::Fd contents;  // superblock, headers, groups of contents
    sys::Fd arena;     // bytes
    sys::Fd groups;    // names and seeds
  };
  static constexpr std::size_t kGroupsMax = 4096;   // 128 B each; a group per VM at most
  static constexpr std::size_t kGroupNameMax = 96;  // bytes
  static constexpr std::size_t kPutRunMax = 16;     // pages: 64 KiB, what stays in the cache

  // An empty store that may grow to `arena_max` bytes of encoded pages (at most 1 TiB). Sparse: an
  // empty store costs some pages.
  static Result<std::unique_ptr<Contents>> create(ByteCount arena_max, HashFunction hash = nullptr);
  // After a restart. Takes time independent of the size of the store; the store is then recovering
  // (below). An Error: the files are not a store of this version.
  static Result<std::unique_ptr<Contents>> adopt(Files files, HashFunction hash = nullptr);
  ~Contents() override;

  const Files& files() const noexcept { return files_; }

  // The group of that name, made when it is new. Errors: EINVAL a name that is empty or longer than
  // kGroupNameMax, ENOSPC more than kGroupsMax groups. Works while recovering.
  Result<GroupId> group(std::string_view name);
  // REQUIRES: `group` came from group().
  ContentHash hash(GroupId group, const PageCopy& page) const noexcept;

  // Keeps a page, or finds it. `hash` is hash(group, page). Errors: EAGAIN recovering; ENOSPC the
  // arena or the ids are used up; ENOMEM the host has no memory to back it; EINVAL the hash is not
  // the page's; EIO what was stored did not decode to the page; EUCLEAN the group's references do
  // not add up (is_stopped).
  Result<PutResult> put(GroupId group, const PageCopy& page, ContentHash hash);
  // The same for up to kPutRunMax pages, faster a page: memory is prefetched ahead.
  // REQUIRES: out.size() == requests.size().
  void put_run(GroupId group, std::span<const PutRequest> requests,
               std::span<Result<PutResult>> out);

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

  // Walks counters, not contents.
  Stats stats() const;

  struct Parts;  // opaque

 private:
  friend class Reformer;  // store/reform: the one who moves what is kept here

  Contents(Files files, std::unique_ptr<Parts> parts) noexcept;

  Files files_;
  std::unique_ptr<Parts> parts_;
};

}  // namespace ramfold::store
