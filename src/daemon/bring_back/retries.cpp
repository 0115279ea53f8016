// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/bring_back/retries.hpp"

#include <pthread.h>
#include <algorithm>
#include <utility>

#include "base/clock.hpp"
#include "daemon/log.hpp"

namespace ramfold::daemon {

Retries::Retries(Pauses pauses) : pauses_(pauses), thread_([this] { run(); }) {
  ::pthread_setname_np(thread_.native_handle(), "rf-retries");
}

void Retries::add(Task task) {
  {
    const std::lock_guard lock(mutex_);
    const std::uint64_t now = monotonic_ns();
    entries_.push_back({std::move(task), now, now, pauses_.first_ns, 0, {}});
  }
  changed_.notify_one();
}

std::optional<Retries::Trouble> Retries::trouble(std::string_view name) const {
  const std::lock_guard lock(mutex_);
  for (const Entry& entry : entries_) {
    if (entry.task.name != name || entry.attempts == 0) continue;
    const std::uint64_t now = monotonic_ns();
    const std::uint64_t left = entry.next_ns > now ? entry.next_ns - now : 0;
    return Trouble{entry.why, entry.attempts, static_cast<double>(left) / 1e9};
  }
  return std::nullopt;
}

void Retries::stop() noexcept {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_one();
  if (thread_.joinable()) thread_.join();
}

void Retries::run() {
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    const auto due = std::ranges::min_element(entries_, {}, &Entry::next_ns);
    if (due == entries_.end()) {
      changed_.wait(lock);
      continue;
    }
    const std::uint64_t now = monotonic_ns();
    if (due->next_ns > now) {
      changed_.wait_for(lock, std::chrono::nanoseconds(due->next_ns - now));
      continue;
    }
    attempt(due, lock);
  }
}

void Retries::attempt(Entries::iterator entry, std::unique_lock<std::mutex>& lock) {
  // Entries stay where they are, and only this thread erases them.
  const Task& task = entry->task;
  lock.unlock();
  const bool wanted = !task.wanted || task.wanted();
  const Status done = wanted ? task.attempt() : Status{};
  lock.lock();
  const std::uint64_t now = monotonic_ns();
  if (wanted && !done) {
    if (entry->attempts++ == 0) log::error("{}: {}: trying again", task.name, done.error().text());
    entry->why = done.error().text();
    const bool late = task.give_up_after_ns != 0 && now - entry->began_ns >= task.give_up_after_ns;
    entry->next_ns = now + entry->pause_ns;
    entry->pause_ns = std::min(entry->pause_ns * 2, pauses_.most_ns);
    if (!late) return;
    log::error("{}: given up after {} attempts: {}", task.name, entry->attempts, entry->why);
  } else if (wanted && entry->attempts != 0) {
    log::info("{}: done after {} attempts", task.name, entry->attempts + 1);
  }
  const auto ended = std::move(entry->task.ended);
  entries_.erase(entry);
  if (!ended) return;
  lock.unlock();
  ended(wanted && done);
  lock.lock();
}

}  // namespace ramfold::daemon
