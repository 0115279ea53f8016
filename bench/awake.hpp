// SPDX-License-Identifier: GPL-2.0-or-later
// Keeps every core out of its idle states: one spinning thread per core, which runs only if no
// other thread wants the core. In a VM an idle core needs 20 to 60 us to wake up, more than a whole
// fault, and this varies. If both figures contained it, their ratio would say nothing about the
// work.
// Threads: constructor and destructor on the same thread.
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
