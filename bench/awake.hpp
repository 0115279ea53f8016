// SPDX-License-Identifier: GPL-2.0-or-later
// Keeps every core out of its idle states: a spinning thread a core, which runs only where nothing
// else wants to. An idle core's own wake-up takes 20 to 60 us in a VM, more than a whole fault, and
// comes and goes; with it in both figures a ratio says nothing of the work.
// Threads: the constructor's and the destructor's are one.
#pragma once

#include <sched.h>
#include <atomic>
#include <thread>
#include <vector>

namespace ramfold::bench {

class Awake {
 public:
  Awake() {
    const unsigned cores = std::thread::hardware_concurrency();
    for (unsigned core = 0; core < cores; ++core) {
      spinners_.emplace_back([this, core] {
        cpu_set_t set;
        CPU_ZERO(&set);
        CPU_SET(core, &set);
        (void)::sched_setaffinity(0, sizeof set, &set);
        const sched_param none{};
        if (::sched_setscheduler(0, SCHED_IDLE, &none) != 0) return;
        while (!stop_.load(std::memory_order_relaxed)) __builtin_ia32_pause();
      });
    }
  }
  ~Awake() {
    stop_.store(true);
    for (std::thread& t : spinners_) t.join();
  }
  Awake(const Awake&) = delete;
  Awake& operator=(const Awake&) = delete;

 private:
  std::atomic<bool> stop_{false};
  std::vector<std::thread> spinners_;
};

}  // namespace ramfold::bench
