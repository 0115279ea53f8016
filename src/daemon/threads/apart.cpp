// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/threads/apart.hpp"

#include <atomic>
#include <chrono>
#include <deque>
#include <utility>

#include "base/thread_annotations.hpp"
#include "sys/thread.hpp"

namespace ramfold::daemon {
namespace {

struct Kept {
  void* what;
  void (*destroy)(void* what) noexcept;
};

std::atomic<unsigned> g_running{0};
std::atomic<unsigned> g_kept_count{0};
Mutex g_kept_mutex("apart");
std::deque<Kept> g_kept GUARDED_BY(g_kept_mutex);  // objects that wait for a thread to destroy them

bool begin_to_destroy(Kept kept) {
  return run_apart([kept] { kept.destroy(kept.what); });
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

void destroy_apart(void* what, void (*destroy)(void* what) noexcept) {
  const Kept kept{what, destroy};
  if (begin_to_destroy(kept)) return;
  const MutexLock lock(g_kept_mutex);
  if (g_kept.size() == kKeptMax) return;  // leaked
  g_kept.push_back(kept);
  g_kept_count.fetch_add(1);
}

std::size_t tend_apart() {
  const MutexLock lock(g_kept_mutex);
  while (!g_kept.empty() && begin_to_destroy(g_kept.front())) {
    g_kept.pop_front();
    g_kept_count.fetch_sub(1);
  }
  return g_kept.size();
}

unsigned count_apart() noexcept { return g_running.load() + g_kept_count.load(); }

}  // namespace ramfold::daemon
