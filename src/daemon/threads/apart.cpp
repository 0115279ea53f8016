// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/threads/apart.hpp"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>

#include "sys/thread_name.hpp"

namespace ramfold::daemon {
namespace {

std::atomic<unsigned> g_running{0};

}  // namespace

bool run_apart(std::function<void()> errand) {
  g_running.fetch_add(1);
  try {
    std::thread([run = std::move(errand)]() mutable {
      sys::name_this_thread("rf-apart");  // before the errand names itself
      run();
      run = nullptr;  // what it owns goes here too, before it counts as ended
      g_running.fetch_sub(1);
    }).detach();
    return true;
  } catch (const std::system_error&) {
    g_running.fetch_sub(1);
    return false;
  }
}

Ended run_apart_for(std::uint64_t patience_ns, std::function<void()> errand) {
  struct End {
    std::mutex mutex;
    std::condition_variable changed;
    bool ended = false;
  };
  const auto end = std::make_shared<End>();
  const bool runs = run_apart([end, run = std::move(errand)]() mutable {
    run();
    run = nullptr;
    const std::lock_guard lock(end->mutex);
    end->ended = true;
    end->changed.notify_all();
  });
  if (!runs) return Ended::never_ran;
  std::unique_lock lock(end->mutex);
  return end->changed.wait_for(lock, std::chrono::nanoseconds(patience_ns),
                               [&] { return end->ended; })
             ? Ended::yes
             : Ended::goes_on;
}

void let_go_apart(std::shared_ptr<void> what) {
  if (what.use_count() != 1) return;
  // Without a thread it is leaked: a descriptor is less than this thread held for ever.
  auto kept = std::make_unique<std::shared_ptr<void>>(std::move(what));
  auto* raw = kept.release();
  (void)run_apart([raw] { delete raw; });
}

unsigned count_apart() noexcept { return g_running.load(); }

}  // namespace ramfold::daemon
