// SPDX-License-Identifier: GPL-2.0-or-later
// A store whose contents are on their way until it is told to have them.
// Threads: any.
#pragma once

#include <atomic>
#include <cstddef>
#include <mutex>
#include <vector>

#include "store/contents.hpp"

namespace ramfold::test {

// Says "pending" once for each content asked for, and that it is ready when told to.
class SlowSource final : public store::ContentSource {
 public:
  explicit SlowSource(store::ContentSource& real) : real_(real) {}
  store::Got get(GroupId group, ContentId id, std::byte* out,
                 store::FetchTicket ticket) noexcept override {
    if (ticket.listener == nullptr || id == kZeroContent || open_.load())
      return real_.get(group, id, out, ticket);
    const std::lock_guard lock(mutex_);
    if (waiting_.size() == kMax) return real_.get(group, id, out, ticket);
    waiting_.push_back(ticket);
    return store::Got::pending;
  }
  void withdraw(store::FetchListener& listener) noexcept override {
    const std::lock_guard lock(mutex_);
    std::erase_if(waiting_, [&](const store::FetchTicket& t) { return t.listener == &listener; });
  }
  store::Booked drop(GroupId group, ContentId id) noexcept override {
    return real_.drop(group, id);
  }
  std::size_t waiting() {
    const std::lock_guard lock(mutex_);
    return waiting_.size();
  }
  void open() {
    open_.store(true);
    // Under the lock, so that withdraw() returns only when no call is under way.
    const std::lock_guard lock(mutex_);
    for (const store::FetchTicket& t : waiting_) t.listener->ready(t);
    waiting_.clear();
  }
  void close() { open_.store(false); }

 private:
  static constexpr std::size_t kMax = 4096;
  store::ContentSource& real_;
  std::mutex mutex_;
  std::vector<store::FetchTicket> waiting_;
  std::atomic<bool> open_{false};
};

}  // namespace ramfold::test
