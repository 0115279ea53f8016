// SPDX-License-Identifier: GPL-2.0-or-later
// The store as the fault path sees it, and a counted reference to one content.
// Threads: as in contents.hpp.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#include "base/types.hpp"

namespace ramfold::store {

enum class Got : std::uint8_t {
  done,     // the 4096 bytes are in the caller's buffer, checksum verified
  pending,  // the bytes are being fetched: call get() again after the listener's ready(ticket)
  failed,   // reading failed for a reason that may pass: call get() again later
  corrupt,  // the bytes are lost (D14); the buffer holds garbage and must not be used
};

// The outcome of taking or giving up one reference. refused: the group has no such content, or the
// content has no reference to give up. That is a bug or damage. Nothing was changed.
enum class Booked : std::uint8_t { done, refused };

// Waits for a content for which get() returned pending. `listener->ready(ticket)` is called once,
// from any thread, when the caller should call get() again; unless the listener was withdrawn
// before. The caller chooses the token.
struct FetchTicket;
class FetchListener {
 public:
  virtual void ready(FetchTicket ticket) noexcept = 0;

 protected:
  ~FetchListener() = default;
};
struct FetchTicket {
  FetchListener* listener = nullptr;  // nullptr: nobody waits, and nobody is called
  std::uint64_t token = 0;
};

// Allocates this thread's scratch memory for get(). Without this call, the thread's first get()
// allocates it.
void prepare_to_read();

// The store as the fault path sees it. Tests wrap it (delays, pending, corrupt).
class ContentSource {
 public:
  virtual ~ContentSource() = default;

  // Writes the content's 4096 bytes to `out`. A content of another group is `corrupt` (I5).
  // REQUIRES: the caller owns a reference to `id` (I1).
  virtual Got get(GroupId group, ContentId id, std::byte* out, FetchTicket ticket) noexcept = 0;
  // get() of this content takes much less time than one more fault would, and does not return
  // pending. So it may be brought back with a neighbour that is touched. A hint: the content may
  // change its form at any moment. REQUIRES: the caller owns a reference to `id`.
  virtual bool is_quick(ContentId id) const noexcept {
    (void)id;
    return false;
  }
  // Forgets the listener: when this returns, no call of its ready() is under way, and none will
  // come. The default is for a source that never returns pending.
  virtual void withdraw(FetchListener& listener) noexcept { (void)listener; }
  // Gives up one reference; giving up the last one frees the content. Does nothing for
  // kZeroContent, which is not counted. REQUIRES: the caller owns the reference, and the page's
  // word does not name the content any more.
  virtual Booked drop(GroupId group, ContentId id) noexcept = 0;
};

// One reference. The destructor drops it, unless it was released into a page's word.
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
  // The caller owns the reference from now on: it writes the returned id into a page's word.
  [[nodiscard]] ContentId release() noexcept {
    source_ = nullptr;
    return id_;
  }
  // The store itself counts a `refused` (Stats::miscounted).
  void reset() noexcept {
    if (source_ != nullptr) (void)std::exchange(source_, nullptr)->drop(group_, id_);
  }

 private:
  ContentSource* source_ = nullptr;
  ContentId id_{};
  GroupId group_{};
};

}  // namespace ramfold::store
