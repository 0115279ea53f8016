// SPDX-License-Identifier: GPL-2.0-or-later
// The threads that serve faults, shared by all VMs. Idle threads wait in one epoll set, with the
// userfaultfds of all VMs that no thread serves. A thread that gets an event takes a place at that
// VM. From then on it polls the userfaultfd of this VM alone, and makes calls on this VM's memory.
// If no event comes for a while, it leaves the VM and waits in the set again.
//
//   idle thread --event--> takes a place at the VM --quiet, asked, or pressed--> idle thread
//
// A VM can hold a thread at one of its places for ever, in a system call on its memory. Idle
// threads make no call that can wait for a VM: they wait in epoll_wait(2), which asks a userfaultfd
// for events under spinlocks only. For each held thread the manager starts another one, and for
// every four held threads one more.
//
// The number of threads: the manager keeps kSpareMin threads idle, while the pool has at most
// kFewMax threads that are not held. If more VMs fault at once, no thread is idle (`pressed`): a
// thread leaves its VM after every batch, so that all VMs are served in turn. A VM always has one
// place; it gets further places (fault.threads_per_vm) only while the pool has at most kFewMax
// threads.
//
// No event is lost: an event that no thread could take stays unread in the userfaultfd. A
// descriptor is armed for one event (EPOLLONESHOT); arming it again reports an event that is
// pending.
//
// Threads: any. Each client shares the ownership of the pool, so the pool outlives its clients.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <unordered_map>
#include <vector>

#include "base/metric.hpp"
#include "base/result.hpp"
#include "base/thread_annotations.hpp"
#include "sys/fd.hpp"
#include "sys/thread.hpp"

namespace ramfold::fault {

class Client;

class Pool {
 public:
  static constexpr unsigned kSpareMin = 2;
  static constexpr unsigned kSpareMax = 4;  // more idle threads end after a while
  static constexpr unsigned kFewMax = 64;

  static Result<std::shared_ptr<Pool>> make();
  // REQUIRES: all clients were removed.
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  // Starts the manager unless it runs already; the manager starts the other threads. Clients wait
  // until it runs.
  Status begin();

  // Events on `events` (a userfaultfd) and `wake` bring threads to the client, at most `places` at
  // a time. REQUIRES: 1 <= places <= kPlacesMax; both descriptors stay open until remove() has
  // returned true.
  Status add(Client& client, int events, int wake, unsigned places);
  // No thread takes this client any more, and its threads are asked to leave. Waits for them, at
  // most `patience_ns`. False: some have not left; call it again.
  bool remove(Client& client, std::uint64_t patience_ns) noexcept;
  // CPU time that threads have spent at the client.
  std::uint64_t cpu_ns(const Client& client) const noexcept;

  // No thread is idle; the threads should serve the VMs in turn.
  bool is_pressed() const noexcept { return idle_.load(std::memory_order_relaxed) == 0; }
  // The kernel has refused a thread, and no thread is idle.
  bool is_short() const noexcept { return short_.load(std::memory_order_relaxed); }
  struct Figures {
    unsigned threads;  // without the manager
    unsigned serving;
    unsigned held;  // of those that serve
  };
  Figures figures() const;

 private:
  friend class Client;
  struct Worker;

  explicit Pool(sys::Fd epoll) noexcept;
  void manage();
  void look_for_held() noexcept REQUIRES(mutex_);
  void send_quiet_ones_away() noexcept REQUIRES(mutex_);
  void keep_spares() REQUIRES(mutex_);
  bool add_worker() REQUIRES(mutex_);
  void end_surplus() noexcept REQUIRES(mutex_);
  void join_ended() REQUIRES(mutex_);
  void work(Worker& me) noexcept;
  Client* take(Worker& me, std::uint64_t key, unsigned& place) noexcept REQUIRES(mutex_);
  void leave(Worker& me, Client& client, unsigned place) noexcept;
  void arm(const Client& client, int operation) const noexcept;
  void ask_to_leave(Client& client) const noexcept REQUIRES(mutex_);

  const sys::Fd epoll_;
  mutable Mutex mutex_{"fault::Pool"};
  CondVar changed_;  // wakes the manager: a thread is needed, a thread has ended, or all must end
  CondVar left_;     // a thread has left a client that stops
  std::unordered_map<std::uint64_t, Client*> clients_ GUARDED_BY(mutex_);
  std::vector<std::unique_ptr<Worker>> workers_ GUARDED_BY(mutex_);
  std::uint64_t next_key_ GUARDED_BY(mutex_) = 0;
  unsigned held_ GUARDED_BY(mutex_) = 0;
  unsigned surplus_looks_ GUARDED_BY(mutex_) = 0;  // successive, with too many idle threads
  bool stopping_ GUARDED_BY(mutex_) = false;
  std::atomic<unsigned> idle_{0};
  std::atomic<bool> short_{false};
  sys::Thread manager_;
};

// One VM, as the pool sees it.
class Client {
 public:
  static constexpr unsigned kPlacesMax = 16;

  virtual ~Client() = default;

 protected:
  Client() = default;
  // Runs on a thread of the pool. First names the thread after the VM; at the end restores the
  // name. Must return soon after stays() is false. `place` < `places`; no other thread has this
  // place until serve() returns.
  virtual void serve(unsigned place) noexcept = 0;

  // Call it after each batch. False: return from serve() now.
  bool stays() const noexcept;
  // Call it after a batch of faults: the VM is not quiet.
  void note_served() noexcept {
    served_.store(served_.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
  }
  // Tell the manager that the thread at `place` is not held: it waits for the next event, or it
  // goes on.
  void begin_wait(unsigned place) noexcept { turns_[place].begin_wait(); }
  void move_on(unsigned place) noexcept { turns_[place].move_on(); }
  // The next event brings another thread, if a place is free.
  void invite() const noexcept;
  bool is_single() const noexcept { return places_ == 1; }

 private:
  friend class Pool;
  // The progress of the thread at a place; odd while it waits for an event. Only that thread writes
  // it.
  class alignas(64) Turn {
   public:
    void begin_wait() noexcept { count_.store(now() | 1, std::memory_order_relaxed); }
    void move_on() noexcept { count_.store((now() | 1) + 1, std::memory_order_relaxed); }
    std::uint64_t now() const noexcept { return count_.load(std::memory_order_relaxed); }

   private:
    std::atomic<std::uint64_t> count_{0};
  };
  struct Place {
    Pool::Worker* worker = nullptr;
    std::uint64_t cpu_began_ns = 0;
    std::uint64_t turn_seen = 0;  // the Turn at the manager's last look
    std::uint64_t moved_ns = 0;   // when a look first saw that Turn
    bool held = false;
  };

  std::atomic<std::uint64_t> served_{0};
  std::atomic<bool> leave_{false};
  std::array<Turn, kPlacesMax> turns_;
  // Fixed by add():
  const Pool* pool_ = nullptr;
  unsigned places_ = 1;
  int events_ = -1;
  int wake_ = -1;
  std::uint64_t key_ = 0;  // key of `events_` in the epoll set; `wake_` has key_ + 1
  bool stopping_ GUARDED_BY(&Pool::mutex_) = false;
  unsigned taken_ GUARDED_BY(&Pool::mutex_) = 0;
  std::array<Place, kPlacesMax> at_ GUARDED_BY(&Pool::mutex_){};
  std::uint64_t served_seen_ GUARDED_BY(&Pool::mutex_) = 0;
  std::uint64_t cpu_left_ns_ GUARDED_BY(&Pool::mutex_) = 0;  // CPU time of threads that have left
};

template <typename V, ConstOr<Pool::Figures> S>
constexpr void visit(V& v, S& s) {
  v(gauge("fault_threads", "Threads that serve faults, or wait to serve some."), s.threads);
  v(gauge("fault_threads_serving", "Threads that are at a VM now."), s.serving);
  v(gauge("fault_threads_held", "Threads that a VM's process holds up."), s.held);
}

}  // namespace ramfold::fault
