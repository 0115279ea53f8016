// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/threads/apart.hpp"

#include <atomic>
#include <chrono>
#include <deque>
#include <map>
#include <utility>

#include "base/thread_annotations.hpp"
#include "sys/thread.hpp"

namespace ramfold::daemon {
namespace {

struct Kept {
  void* what;
  void (*destroy)(void* what) noexcept;
  Sender sender;
};

struct Closing {
  std::size_t threads = 0;
  std::size_t objects = 0;  // those of the threads, and those that are kept
};

std::atomic<unsigned> g_running{0};
std::atomic<unsigned> g_kept_count{0};
Mutex g_mutex("apart");
std::deque<Kept> g_kept GUARDED_BY(g_mutex);  // objects that wait for a thread to destroy them
std::map<uid_t, Closing> g_closing GUARDED_BY(g_mutex);  // of each sender that has objects
std::size_t g_closing_threads GUARDED_BY(g_mutex) = 0;   // the sum over all senders

void forget_object(uid_t sender) REQUIRES(g_mutex) {
  const auto closing = g_closing.find(sender);
  if (--closing->second.objects == 0) g_closing.erase(closing);
}

void forget_thread(uid_t sender) REQUIRES(g_mutex) {
  --g_closing[sender].threads;
  --g_closing_threads;
}

bool begin_kept() REQUIRES(g_mutex);

enum class Begun { yes, no_room, no_thread };
Begun begin_to_destroy(const Kept& kept) REQUIRES(g_mutex) {
  if (!kept.sender) {
    return run_apart([kept] { kept.destroy(kept.what); }) ? Begun::yes : Begun::no_thread;
  }
  Closing& closing = g_closing[*kept.sender];
  if (closing.threads == kClosingOfSenderMax || g_closing_threads == kClosingMax)
    return Begun::no_room;
  ++closing.threads;
  ++g_closing_threads;
  const bool runs = run_apart([kept] {
    kept.destroy(kept.what);
    const MutexLock lock(g_mutex);
    forget_thread(*kept.sender);
    forget_object(*kept.sender);
    (void)begin_kept();
  });
  if (runs) return Begun::yes;
  forget_thread(*kept.sender);
  return Begun::no_thread;
}

// False: the kernel gives no thread.
bool begin_kept() {
  for (auto kept = g_kept.begin(); kept != g_kept.end();) {
    const Begun begun = begin_to_destroy(*kept);
    if (begun == Begun::no_thread) return false;
    if (begun == Begun::no_room) {
      ++kept;
      continue;
    }
    kept = g_kept.erase(kept);
    g_kept_count.fetch_sub(1);
  }
  return true;
}

}  // namespace

bool run_apart(std::function<void()> errand) {
  g_running.fetch_add(1);
  auto thread = sys::Thread::start("rf-apart", [run = std::move(errand)]() mutable {
    run();
    run = nullptr;  // destroys what the errand owns, before it counts as ended
    g_running.fetch_sub(1);
  });
  if (!thread) {
    g_running.fetch_sub(1);
    return false;
  }
  thread->leave();
  return true;
}

Ended run_apart_for(std::uint64_t patience_ns, std::function<void()> errand) {
  struct End {
    Mutex mutex{"End"};
    CondVar changed;
    bool ended GUARDED_BY(mutex) = false;
  };
  const auto end = std::make_shared<End>();
  const bool runs = run_apart([end, run = std::move(errand)]() mutable {
    run();
    run = nullptr;
    const MutexLock lock(end->mutex);
    end->ended = true;
    end->changed.notify_all();
  });
  if (!runs) return Ended::never_ran;
  const auto until = CondVar::Clock::now() + std::chrono::nanoseconds(patience_ns);
  const MutexLock lock(end->mutex);
  while (!end->ended && end->changed.wait_until(end->mutex, until)) {
  }
  return end->ended ? Ended::yes : Ended::goes_on;
}

void destroy_apart(void* what, void (*destroy)(void* what) noexcept, Sender sender) {
  const Kept kept{what, destroy, sender};
  // Without a lock where there is a thread: the caller may hold locks of its own.
  if (!sender && run_apart([kept] { kept.destroy(kept.what); })) return;
  const MutexLock lock(g_mutex);
  if (sender) ++g_closing[*sender].objects;
  if (begin_to_destroy(kept) == Begun::yes) return;
  if (g_kept.size() == kKeptMax) {  // leaked
    if (sender) forget_object(*sender);
    return;
  }
  g_kept.push_back(kept);
  g_kept_count.fetch_add(1);
}

bool tend_apart() {
  const MutexLock lock(g_mutex);
  return begin_kept();
}

bool is_closing_much(uid_t sender) {
  const MutexLock lock(g_mutex);
  const auto closing = g_closing.find(sender);
  return closing != g_closing.end() && closing->second.objects >= kClosingOfSenderMax;
}

unsigned count_apart() noexcept { return g_running.load() + g_kept_count.load(); }

}  // namespace ramfold::daemon
