// SPDX-License-Identifier: GPL-2.0-or-later
// Tasks that must succeed in the end: each is tried at once, then again after growing pauses until
// it succeeds. The log gets one line at the first failure, and one at the success after it. Tasks
// with different names run in parallel, so a slow task does not delay another. Tasks with the same
// name run one after another. An owner of VMs has at most its share of the attempts that run at the
// same time (base/owner_share.hpp), so slow tasks of one owner do not delay those of another.
// Threads: add(), trouble() and begin() from any; tasks on threads of their own; stop() from one.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "base/result.hpp"
#include "base/thread_annotations.hpp"
#include "sys/subordinate_ids.hpp"
#include "sys/thread.hpp"

namespace ramfold::daemon {

class Retries {
 public:
  // Attempts for VMs that run at the same time, each with a thread; more wait.
  static constexpr unsigned kAtOnceMax = 64;
  // The owner of a task that is the host's own. It waits only for a task of its name.
  static constexpr std::nullopt_t kHost = std::nullopt;
  struct Pauses {
    std::uint64_t first_ns = 250'000'000;
    std::uint64_t most_ns =
        30'000'000'000;  // so that freeing memory has its effect within half a minute
  };
  struct Task {
    std::string name;            // "vm web: bring its pages back"; need not be unique
    std::optional<uid_t> owner;  // of the VM; or kHost
    std::function<Status()> attempt;
    std::function<bool()> wanted;          // false: the task ends without a log line
    std::function<void(bool held)> ended;  // called once, on a thread of an attempt; may be empty
    std::uint64_t give_up_after_ns = 0;    // give up after this time without success; 0: never
    // The time of the last progress (monotonic_ns(); 0: none). give_up_after_ns counts from there.
    std::function<std::uint64_t()> moved_ns = {};
  };
  // Why a task has not succeeded yet.
  struct Trouble {
    std::string why;
    std::uint64_t attempts = 0;
    double next_seconds = 0;
  };

  Retries() : Retries(Pauses{}) {}
  explicit Retries(Pauses pauses, sys::SubordinateIds ids = sys::SubordinateIds{})
      : pauses_(pauses), ids_(std::move(ids)) {}
  ~Retries() { stop(); }
  Retries(const Retries&) = delete;
  Retries& operator=(const Retries&) = delete;

  // Starts the thread unless it runs already. Tasks wait until it runs.
  Status begin();
  void add(Task task);
  // For a task of this name that has failed; nullopt if there is none.
  std::optional<Trouble> trouble(std::string_view name) const;
  // Drops all tasks, and waits for running attempts.
  void stop() noexcept;

 private:
  struct Entry {
    Task task;
    std::optional<uid_t> account;  // of the owner (sys/subordinate_ids.hpp)
    std::uint64_t began_ns = 0;
    std::uint64_t next_ns GUARDED_BY(&Retries::mutex_) = 0;
    std::uint64_t pause_ns GUARDED_BY(&Retries::mutex_) = 0;
    std::uint64_t attempts GUARDED_BY(&Retries::mutex_) = 0;  // failed ones
    std::string why GUARDED_BY(&Retries::mutex_);
    bool under_way GUARDED_BY(&Retries::mutex_) = false;
  };
  using Entries = std::list<Entry>;

  void run();
  // No task of its name is under way, and its account has a place left.
  bool may_begin(const Entry& entry) const REQUIRES(mutex_);
  void begin_attempt(Entry& entry) REQUIRES(mutex_);
  void end_attempt(std::optional<uid_t> account) REQUIRES(mutex_);
  void attempt(Entries::iterator entry) EXCLUDES(mutex_);

  const Pauses pauses_;
  mutable Mutex mutex_{"Retries"};
  sys::SubordinateIds ids_ GUARDED_BY(mutex_);
  CondVar changed_;
  Entries entries_ GUARDED_BY(mutex_);  // only its own attempt erases an entry that is under way
  unsigned under_way_ GUARDED_BY(mutex_) = 0;
  std::map<uid_t, unsigned> under_way_of_ GUARDED_BY(mutex_);  // by account; no entry: none
  bool stopping_ GUARDED_BY(mutex_) = false;
  sys::Thread thread_;
};

}  // namespace ramfold::daemon
