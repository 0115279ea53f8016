// SPDX-License-Identifier: GPL-2.0-or-later
// Measures how long a guest thread waits for its pages, and the floor of this time: a bare
// userfaultfd echo, a thread that answers every event with one UFFDIO_COPY and does nothing else.
// Threads: the bench's, and the echo's while it runs.
#pragma once

#include <poll.h>
#include <sched.h>
#include <atomic>
#include <chrono>
#include <thread>

#include "base/page_copy.hpp"
#include "bench/report.hpp"
#include "kernel/guest_process.hpp"
#include "sys/interrupt.hpp"
#include "sys/memory.hpp"
#include "sys/priority.hpp"
#include "sys/uffd.hpp"

namespace ramfold::bench {

struct Times {
  double p50 = 0;
  double p99 = 0;
};

// The guest's core and that of everything else. Where they meet, a fault is two switches of context
// and the rest is work; across cores most of it is the wake-up of the other core, in a VM a way
// through the host.
enum class Placed { together, apart };
constexpr unsigned kCore = 1;

inline void pin(pid_t pid, unsigned core) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(core % std::thread::hardware_concurrency(), &set);
  (void)::sched_setaffinity(pid, sizeof set, &set);
}

// Reads each page once, in an order that no read-ahead foresees, after a pause each. REQUIRES: 7
// does not divide them.
inline Times touch_all(test::GuestProcess& process, std::uint64_t pages,
                       std::chrono::milliseconds pause = {}) {
  std::vector<double> us;
  for (std::uint64_t p = 0; p < pages; ++p) {
    if (pause.count() != 0) std::this_thread::sleep_for(pause);
    us.push_back(static_cast<double>(process.read_ns(PageIndex{p * 7 % pages})) / 1e3);
  }
  return {quantile(us, 0.5), quantile(us, 0.99)};
}

inline void pin_guest(const test::GuestProcess& process, Placed placed) {
  pin(process.pid(), placed == Placed::together ? kCore : kCore + 1);
}

// The floor, with so many pages.
inline Times echo(Placed placed, std::uint64_t pages, std::chrono::milliseconds pause = {}) {
  const auto process = test::GuestProcess::start(PageCount{pages});
  const sys::Uffd uffd{sys::BorrowedFd(process->uffd())};
  (void)uffd.handshake(sys::Uffd::kFeaturesNeeded);
  const sys::UffdRange all{process->base(), bytes(PageCount{pages})};
  for (std::uint64_t p = 0; p < pages; ++p) process->store(PageIndex{p}, p + 1);
  (void)uffd.register_range(all);
  // Holes as a fold leaves them.
  (void)uffd.guard(all);
  (void)sys::punch(sys::BorrowedFd(process->ram()), ByteCount{0}, all.size);
  pin_guest(*process, placed);
  std::atomic<bool> stop{false};
  std::atomic<bool> ended{false};
  std::thread server([&] {
    sys::let_interrupt_this_thread();
    sys::prefer_this_thread();  // as the fault service
    PageCopy page{};
    std::array<uffd_msg, 64> events;
    while (!stop) {
      pollfd p{uffd.fd(), POLLIN, 0};
      (void)::poll(&p, 1, -1);  // a timer would cost half a microsecond
      const auto n = uffd.read_events(events);
      for (std::size_t i = 0; n && i < *n; ++i) {
        const HostVirt at{events[i].arg.pagefault.address & ~(kPageSize - 1)};
        (void)uffd.copy(at, page.bytes.data(), ByteCount{kPageSize}, sys::Guard::no,
                        sys::Wake::yes);
      }
    }
    ended = true;
  });
  const Times times = touch_all(*process, pages, pause);
  stop = true;
  while (!ended) {
    sys::interrupt(server.native_handle());
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  server.join();
  return times;
}

}  // namespace ramfold::bench
