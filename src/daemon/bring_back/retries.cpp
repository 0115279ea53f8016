// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/bring_back/retries.hpp"

#include <algorithm>
#include <chrono>
#include <utility>

#include "base/clock.hpp"
#include "base/owner_share.hpp"
#include "daemon/log.hpp"
#include "daemon/threads/apart.hpp"

namespace ramfold::daemon {

Status Retries::begin() {
  const MutexLock lock(mutex_);
  if (thread_ || stopping_) return {};
  auto thread = sys::Thread::start("rf-retries", [this] { run(); });
  if (!thread) return std::unexpected(thread.error());
  thread_ = std::move(*thread);
  return {};
}

void Retries::add(Task task) {
  {
    const MutexLock lock(mutex_);
    const std::uint64_t now = monotonic_ns();
    std::optional<uid_t> account;
    if (task.owner) account = ids_.account_of(*task.owner);
    entries_.push_back({std::move(task), account, now, now, pauses_.first_ns, 0, {}});
  }
  changed_.notify_one();
}

std::optional<Retries::Trouble> Retries::trouble(std::string_view name) const {
  const MutexLock lock(mutex_);
  for (const Entry& entry : entries_) {
    if (entry.task.name != name || entry.attempts == 0) continue;
    const std::uint64_t now = monotonic_ns();
    const std::uint64_t left = entry.next_ns > now ? entry.next_ns - now : 0;
    return Trouble{entry.why, entry.attempts, static_cast<double>(left) / 1e9};
  }
  return std::nullopt;
}

void Retries::stop() noexcept {
  MutexLock lock(mutex_);
  stopping_ = true;
  changed_.notify_all();
  lock.unlock();
  thread_.join();
  lock.lock();
  while (under_way_ != 0) changed_.wait(mutex_);
}

bool Retries::may_begin(const Entry& entry) const {
  if (entry.under_way) return false;
  if (entry.account) {
    const auto found = under_way_of_.find(*entry.account);
    const unsigned own = found == under_way_of_.end() ? 0 : found->second;
    constexpr OwnerShare kShare(kAtOnceMax, OwnerShare::kHalf);
    if (!kShare.allows(under_way_ - own, own, 1)) return false;
  }
  return std::ranges::none_of(entries_, [&](const Entry& other) {
    mutex_.is_held();
    return other.under_way && other.task.name == entry.task.name;
  });
}

void Retries::begin_attempt(Entry& entry) {
  entry.under_way = true;
  ++under_way_;
  if (entry.account) ++under_way_of_[*entry.account];
}

void Retries::end_attempt(std::optional<uid_t> account) {
  --under_way_;
  if (account && --under_way_of_[*account] == 0) under_way_of_.erase(*account);
  changed_.notify_all();
}

void Retries::run() {
  MutexLock lock(mutex_);
  while (!stopping_) {
    auto due = entries_.end();
    for (auto e = entries_.begin(); e != entries_.end(); ++e) {
      if (may_begin(*e) && (due == entries_.end() || e->next_ns < due->next_ns)) due = e;
    }
    if (due == entries_.end()) {
      changed_.wait(mutex_);
      continue;
    }
    const std::uint64_t now = monotonic_ns();
    if (due->next_ns > now) {
      changed_.wait_for(mutex_, std::chrono::nanoseconds(due->next_ns - now));
      continue;
    }
    begin_attempt(*due);
    lock.unlock();
    // If the kernel gives no thread, the attempt runs here, and other tasks wait.
    if (!run_apart([this, due] { attempt(due); })) attempt(due);
    lock.lock();
  }
}

void Retries::attempt(Entries::iterator entry) {
  // The entry stays where it is: only this attempt erases it.
  const Task& task = entry->task;
  const bool wanted = !task.wanted || task.wanted();
  const Status done = wanted ? task.attempt() : Status{};
  MutexLock lock(mutex_);
  const std::uint64_t now = monotonic_ns();
  bool over = true;
  if (wanted && !done) {
    if (entry->attempts++ == 0) log::error("{}: {}: trying again", task.name, done.error().text());
    entry->why = done.error().text();
    entry->next_ns = now + entry->pause_ns;
    if (task.give_up_after_ns != 0) {
      const std::uint64_t moved = task.moved_ns ? task.moved_ns() : 0;
      const std::uint64_t ends = std::max(entry->began_ns, moved) + task.give_up_after_ns;
      over = now >= ends;
      // The last attempt is when the task's time ends, not one pause later.
      entry->next_ns = std::min(entry->next_ns, ends);
    } else {
      over = false;
    }
    entry->pause_ns = std::min(entry->pause_ns * 2, pauses_.most_ns);
    if (over)
      log::error("{}: given up after {} attempts: {}", task.name, entry->attempts, entry->why);
  } else if (wanted && entry->attempts != 0) {
    log::info("{}: done after {} attempts", task.name, entry->attempts + 1);
  }
  entry->under_way = false;
  const std::optional<uid_t> account = entry->account;
  if (over) {
    const Task ended = std::move(entry->task);
    entries_.erase(entry);
    if (ended.ended) {
      lock.unlock();
      ended.ended(wanted && done);
      lock.lock();
    }
  }
  end_attempt(account);
}

}  // namespace ramfold::daemon
