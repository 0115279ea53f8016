// SPDX-License-Identifier: GPL-2.0-or-later
// The fault service of one VM: threads that read its events in batches and serve them. Each VM has
// its own threads, so that one whose memory is exhausted or whose contents are slow holds up nobody
// else (L6).
// Threads: start/stop from one thread. ready() from any.
#pragma once

#include <array>
#include <atomic>
#include <memory>
#include <semaphore>
#include <thread>
#include <vector>

#include "base/thread_cpu.hpp"
#include "fault/filler.hpp"
#include "sys/fd.hpp"

namespace ramfold::fault {

class Server final : private store::FetchListener {
 public:
  // Events read at once, and pages that may wait for the store at once; a fault that finds no place
  // is woken again, and tries again.
  static constexpr std::size_t kBatch = 64;
  static constexpr std::size_t kParkedMax = 1024;

  static constexpr unsigned kThreadsMax = guest::Fillings::kFaultMax;

  // REQUIRES: no other server of this VM runs.
  static Result<std::unique_ptr<Server>> start(guest::Vm& vm, store::ContentSource& source,
                                               GroupId group, unsigned threads);
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  // Ends the threads after the fault they are at. Waiters stay waiting: for a next daemon, or for
  // nothing when the VM was unregistered first.
  void stop() noexcept;
  Filler& filler() noexcept { return filler_; }
  // CPU time of the threads so far.
  std::uint64_t cpu_ns() const noexcept;
  std::uint64_t parked() const noexcept { return parked_count_.load(std::memory_order_relaxed); }

 private:
  enum class ParkedState : std::uint8_t { free, fetching, ready };
  struct Parked {
    std::atomic<ParkedState> state{ParkedState::free};
    PageIndex page;
    Need need{};
    std::uint64_t since_ns = 0;
  };

  Server(guest::Vm& vm, store::ContentSource& source, GroupId group, sys::Fd wake,
         unsigned threads);
  void run(unsigned number) noexcept;
  void wait_for_work() noexcept;
  void serve_event(const uffd_msg& event, FillerThread& me) noexcept;
  void serve_ready(FillerThread& me) noexcept;
  void account(Served served, bool zero, std::uint64_t since_ns) noexcept;
  Parked* park() noexcept;
  void unpark(Parked& place) noexcept;
  void ready(store::FetchTicket ticket) noexcept override;

  guest::Vm& vm_;
  std::atomic<bool> stopping_{false};
  Filler filler_;
  sys::Fd wake_;  // eventfd: a ticket is ready
  std::array<Parked, kParkedMax> parked_;
  std::atomic<std::uint64_t> parked_count_{0};
  // A parked ticket became ready since the table was looked at.
  std::atomic<bool> any_ready_{false};
  std::counting_semaphore<kThreadsMax> ended_{0};
  std::vector<ThreadCpu> cpu_;  // one a thread
  std::vector<std::thread> threads_;
};

}  // namespace ramfold::fault
