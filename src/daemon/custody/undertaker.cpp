// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/custody/undertaker.hpp"

#include <algorithm>
#include <chrono>
#include <set>

#include "base/clock.hpp"
#include "daemon/threads/apart.hpp"

namespace ramfold::daemon {
namespace {

constexpr auto kNap = std::chrono::milliseconds(250);  // until the kernel may give a thread

}  // namespace

Status Undertaker::begin() {
  const MutexLock lock(mutex_);
  if (thread_ || stopping_) return {};
  auto thread = sys::Thread::start("rf-undertaker", [this] { run(); });
  if (!thread) return std::unexpected(thread.error());
  thread_ = std::move(*thread);
  return {};
}

void Undertaker::add(VmHandle dead) {
  const uid_t uid = dead->vm->record().uid;
  {
    const MutexLock lock(mutex_);
    entries_.push_back({std::move(dead), ids_.account_of(uid), added_++, 0});
  }
  changed_.notify_all();
}

void Undertaker::drain() {
  const MutexLock lock(mutex_);
  const std::uint64_t end = added_;
  while (!stopping_) {
    const std::uint64_t now = monotonic_ns();
    std::uint64_t wait_ns = 0;
    for (const Entry& e : entries_) {
      if (e.number >= end) break;
      const std::uint64_t spent = e.began_ns == 0 ? 0 : now - e.began_ns;
      if (spent < patience_.drain_ns) wait_ns = std::max(wait_ns, patience_.drain_ns - spent);
    }
    if (wait_ns == 0) return;
    changed_.wait_for(mutex_, std::chrono::nanoseconds(wait_ns));
  }
}

void Undertaker::stop() noexcept {
  {
    const MutexLock lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

Undertaker::Entries::iterator Undertaker::next(std::uint64_t& wait_ns) {
  const std::uint64_t now = monotonic_ns();
  std::set<uid_t> busy;
  wait_ns = 0;
  for (const Entry& e : entries_) {
    if (e.began_ns == 0 || now - e.began_ns >= patience_.next_ns) continue;
    const std::uint64_t left = patience_.next_ns - (now - e.began_ns);
    wait_ns = busy.empty() ? left : std::min(wait_ns, left);
    busy.insert(e.account);
  }
  return std::ranges::find_if(entries_, [&](const Entry& e) {
    mutex_.is_held();
    return e.began_ns == 0 && !busy.contains(e.account);
  });
}

void Undertaker::run() {
  MutexLock lock(mutex_);
  while (!stopping_) {
    std::uint64_t wait_ns = 0;
    const auto entry = next(wait_ns);
    if (entry == entries_.end()) {
      if (wait_ns == 0) {
        changed_.wait(mutex_);
      } else {
        changed_.wait_for(mutex_, std::chrono::nanoseconds(wait_ns));
      }
      continue;
    }
    entry->began_ns = monotonic_ns();
    lock.unlock();
    const bool begun = begin_burial(entry);
    lock.lock();
    if (begun) continue;
    entry->began_ns = 0;
    if (!stopping_) changed_.wait_for(mutex_, kNap);
  }
}

bool Undertaker::begin_burial(Entries::iterator entry) {
  // It may wait for the keeper. On this thread, so that a keeper that is stopped holds one thread,
  // not one for each VM.
  if (!entry->dropped) (void)keeping_.drop_vm(entry->vm->vm->id());
  entry->dropped = true;
  return run_apart([this, entry] {
    // Moved on, not shared: bury_ may wait until it is the only owner.
    bury_(std::move(entry->vm));
    const MutexLock lock(mutex_);
    entries_.erase(entry);
    changed_.notify_all();
  });
}

}  // namespace ramfold::daemon
