// SPDX-License-Identifier: GPL-2.0-or-later
// What must come about in the end: tried at once, and again with growing pauses until it holds. The
// log has one line when it first fails and one when it holds after that. Tasks of different names
// run side by side, so that one that takes long does not make another late; those of one name run
// one after another.
// Threads: add(), trouble() and begin() from any; tasks on threads of their own; stop() from one.
#pragma once

#include <cstdint>
#include <functional>
#include <list>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.hpp"
#include "base/thread_annotations.hpp"
#include "sys/thread.hpp"

namespace ramfold::daemon {

class Retries {
 public:
  static constexpr unsigned kAtOnceMax = 16;  // attempts under way; more wait
  struct Pauses {
    std::uint64_t first_ns = 250'000'000;
    std::uint64_t most_ns =
        30'000'000'000;  // an operator who frees memory sees it work within half a minute
  };
  struct Task {
    std::string name;  // "vm web: bring its pages back"; need not be unique
    std::function<Status()> attempt;
    std::function<bool()> wanted;          // false: it is given up without a word
    std::function<void(bool held)> ended;  // once, on a thread of an attempt; may be empty
    std::uint64_t give_up_after_ns = 0;    // without an attempt that held; 0: never
    // When it last came nearer (monotonic_ns(); 0: never did): its time counts from there.
    std::function<std::uint64_t()> moved_ns = {};
  };
  // Why a task has not come about yet.
  struct Trouble {
    std::string why;
    std::uint64_t attempts = 0;
    double next_seconds = 0;
  };

  Retries() : Retries(Pauses{}) {}
  explicit Retries(Pauses pauses) : pauses_(pauses) {}
  ~Retries() { stop(); }
  Retries(const Retries&) = delete;
  Retries& operator=(const Retries&) = delete;

  // Starts the thread when it does not run. Tasks wait until it does.
  Status begin();
  void add(Task task);
  // Of a task of that name that has failed; nothing when there is none.
  std::optional<Trouble> trouble(std::string_view name) const;
  // Tasks are dropped; one that is being tried is waited for.
  void stop() noexcept;

 private:
  struct Entry {
    Task task;
    std::uint64_t began_ns = 0;
    std::uint64_t next_ns GUARDED_BY(&Retries::mutex_) = 0;
    std::uint64_t pause_ns GUARDED_BY(&Retries::mutex_) = 0;
    std::uint64_t attempts GUARDED_BY(&Retries::mutex_) = 0;  // that failed
    std::string why GUARDED_BY(&Retries::mutex_);
    bool under_way GUARDED_BY(&Retries::mutex_) = false;
  };
  using Entries = std::list<Entry>;

  void run();
  bool may_begin(const Entry& entry) const REQUIRES(mutex_);
  void attempt(Entries::iterator entry) EXCLUDES(mutex_);

  const Pauses pauses_;
  mutable Mutex mutex_{"Retries"};
  CondVar changed_;
  Entries entries_ GUARDED_BY(mutex_);  // an entry that is under way is erased by its attempt only
  unsigned under_way_ GUARDED_BY(mutex_) = 0;
  bool stopping_ GUARDED_BY(mutex_) = false;
  sys::Thread thread_;
};

}  // namespace ramfold::daemon
