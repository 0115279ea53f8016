// SPDX-License-Identifier: GPL-2.0-or-later
// The fault service of one VM: reads its events in batches and serves them, on threads of a Pool,
// which come when there are events. A thread serves one VM at a time. So a VM whose memory is
// exhausted, or whose contents are slow, holds up no other VM (L6). A page whose content the store
// cannot read now (Got::failed) is asked for again, less and less often, for as long as that lasts:
// its waiter waits, and gets no memory error.
// Threads: start/stop from one thread. ready() from any.
#pragma once

#include <array>
#include <atomic>
#include <memory>

#include "fault/filler.hpp"
#include "fault/pool.hpp"
#include "fault/spinning.hpp"
#include "sys/fd.hpp"

namespace ramfold::fault {

class Server final : private store::FetchListener, private Client {
 public:
  // Events read at once, and pages that may wait for the store at once; a fault that finds no place
  // is woken again, and tries again.
  static constexpr std::size_t kBatch = 64;
  static constexpr std::size_t kParkedMax = 1024;

  static constexpr unsigned kThreadsMax = guest::Fillings::kFaultMax;
  static_assert(kThreadsMax <= kPlacesMax);

  // `threads`: the most at once. REQUIRES: no other server of this VM runs.
  static Result<std::unique_ptr<Server>> start(std::shared_ptr<Pool> pool, guest::Vm& vm,
                                               store::ContentSource& source, GroupId group,
                                               unsigned threads);
  ~Server() override;
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  // No thread comes any more. Each thread that is here leaves after its present fault, and this
  // waits for it. Then the parked pages are given up, and the source calls this no more. Threads of
  // the VM that wait go on waiting, for the next daemon; if the VM was unregistered first, there
  // are none.
  void stop() noexcept { (void)stop(UINT64_MAX); }
  // The same, for `patience_ns` at most. False: a thread is held up here, and leaves when it can.
  bool stop(std::uint64_t patience_ns) noexcept;
  Filler& filler() noexcept { return filler_; }
  // CPU time of the threads while they were here.
  std::uint64_t cpu_ns() const noexcept { return pool_->cpu_ns(*this); }
  std::uint64_t parked() const noexcept { return parked_count_.load(std::memory_order_relaxed); }

 private:
  // fetching: a thread works on it, or the source will call ready(). resting: until `due_ns`.
  enum class ParkedState : std::uint8_t { free, fetching, ready, resting };
  struct Parked {
    std::atomic<ParkedState> state{ParkedState::free};
    PageIndex page;
    Need need{};
    std::uint64_t since_ns = 0;
    unsigned failures = 0;                 // of the store, in a row
    std::atomic<std::uint64_t> due_ns{0};  // when it is resting
  };

  Server(std::shared_ptr<Pool> pool, guest::Vm& vm, store::ContentSource& source, GroupId group,
         sys::Fd wake);
  void serve(unsigned place) noexcept override;
  bool goes_on() const noexcept {
    return !stopping_.load(std::memory_order_relaxed) && Client::stays();
  }
  bool spin(Spinning& spinning) noexcept;
  void wait_for_work(unsigned place) noexcept;
  void empty_wake() noexcept;
  void serve_event(const uffd_msg& event, FillerThread& me) noexcept;
  int poll_ms() const noexcept;
  // Serves the parked pages that are ready, or have rested long enough.
  void serve_parked(FillerThread& me) noexcept;
  void rest(Parked& place) noexcept;
  void forget_parked() noexcept;
  void account(Served served, bool zero, std::uint64_t since_ns) noexcept;
  Parked* park() noexcept;
  void unpark(Parked& place) noexcept;
  void ready(store::FetchTicket ticket) noexcept override;

  const std::shared_ptr<Pool> pool_;
  guest::Vm& vm_;
  store::ContentSource& source_;
  std::atomic<bool> stopping_{false};
  Filler filler_;
  sys::Fd wake_;  // eventfd: a ticket is ready, or something rests and no thread is here
  std::array<Parked, kParkedMax> parked_;
  std::atomic<std::uint64_t> parked_count_{0};
  std::atomic<std::uint64_t> resting_count_{0};
  // A parked ticket became ready since the table was looked at.
  std::atomic<bool> any_ready_{false};
  std::atomic<bool> let_go_{false};  // the source knows of no waiter any more
};

}  // namespace ramfold::fault
