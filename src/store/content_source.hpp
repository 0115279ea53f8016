// SPDX-License-Identifier: GPL-2.0-or-later
// What the fault path sees of the store, and a reference to one content.
// Threads: as in contents.hpp.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#include "base/types.hpp"

namespace ramfold::store {

enum class Got : std::uint8_t {
  done,     // the 4096 bytes are in the caller's buffer, checksum verified
  pending,  // they are on their way: call get() again after the listener heard of the ticket
  failed,   // they could not be read now, for a reason that may pass: call get() again in a while
  corrupt,  // they cannot be had (D14); the buffer holds garbage and must not be used
};

// What became of one reference. refused: there is no such content in the group, or it has no
// reference that could be given up: a bug or damage. Nothing was changed.
enum class Booked : std::uint8_t { done, refused };

// Who waits for a content that get() called pending: `listener->ready(ticket)` is called once, from
// any thread, when get() is worth calling again, unless the listener was withdrawn before. The
// token is the caller's own.
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
  // The listener waits for nothing any more: when this returns no call of its ready() is under way,
  // and none comes. A source that calls nothing pending has nobody to forget.
  virtual void withdraw(FetchListener& listener) noexcept { (void)listener; }
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

}  // namespace ramfold::store
