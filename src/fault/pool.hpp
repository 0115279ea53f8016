// SPDX-License-Identifier: GPL-2.0-or-later
// The threads that serve faults, shared by all VMs. The userfaultfds of VMs that nobody serves are
// in one epoll set, and idle threads wait there. A thread that gets an event takes that VM: then it
// polls the userfaultfd of that VM alone, and makes calls on that VM's memory. It leaves the VM
// when there was no event for a while, and waits in the set again.
//
//   idle thread --event--> takes a place at the VM --quiet, asked, or pressed--> idle thread
//
// A VM can hold the threads that have its places, in a system call on its memory, for ever. So idle
// threads make no call that can wait for a VM: they wait in epoll_wait(2), and the kernel asks a
// userfaultfd for events under spinlocks only. A thread that is held counts as none: the manager
// starts another one in its place, and one more for every four that are held.
//
// How many threads there are: kSpareMin idle ones are wanted, as long as at most kFewMax threads
// are at work without being held. Where more VMs than that fault at once, a thread leaves its VM
// after every batch, so all of them are served in turn (`pressed`). A VM has one place for certain;
// the further ones (fault.threads_per_vm) it gets only while there are few threads.
//
// No event is lost: an event that nobody could take stays in the userfaultfd, unread. A descriptor
// is armed for one event (EPOLLONESHOT); arming it again reports what is pending.
//
// Threads: any. The pool outlives its clients: they share it.
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
  // REQUIRES: it has no clients any more.
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  // Starts the manager, which starts the others, when it does not run. Clients wait until it does.
  Status begin();

  // `events` (a userfaultfd) and `wake` bring threads to the client, `places` at once at most. They
  // stay open until remove() has said true. REQUIRES: places <= kPlacesMax.
  Status add(Client& client, int events, int wake, unsigned places);
  // No thread comes to it any more, and those that are there are asked to leave; waits for them,
  // for `patience_ns` at most. False: some are there still.
  bool remove(Client& client, std::uint64_t patience_ns) noexcept;
  // CPU time that was spent on the client.
  std::uint64_t cpu_ns(const Client& client) const noexcept;

  // All idle threads have work, and more should be served at once.
  bool is_pressed() const noexcept { return idle_.load(std::memory_order_relaxed) == 0; }
  // The kernel refuses a thread that is needed.
  bool is_short() const noexcept { return short_.load(std::memory_order_relaxed); }
  struct Figures {
    unsigned threads;  // without the manager
    unsigned serving;
    unsigned held;  // of these
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
  CondVar changed_;  // the manager's: a thread is needed, or all end
  CondVar left_;     // a thread has left a client that stops
  std::unordered_map<std::uint64_t, Client*> clients_ GUARDED_BY(mutex_);
  std::vector<std::unique_ptr<Worker>> workers_ GUARDED_BY(mutex_);
  std::uint64_t next_key_ GUARDED_BY(mutex_) = 0;
  unsigned held_ GUARDED_BY(mutex_) = 0;
  unsigned surplus_looks_ GUARDED_BY(mutex_) = 0;  // in a row, with too many idle threads
  bool stopping_ GUARDED_BY(mutex_) = false;
  std::atomic<unsigned> idle_{0};
  std::atomic<bool> short_{false};
  sys::Thread manager_;
};

// What the pool serves: one VM.
class Client {
 public:
  static constexpr unsigned kPlacesMax = 16;

  virtual ~Client() = default;

 protected:
  Client() = default;
  // On a thread of the pool, which names itself for the VM first, and back in the end. Returns soon
  // after stays() says no. `place` is its own until it returns, and less than `places`.
  virtual void serve(unsigned place) noexcept = 0;

  // Asked after each batch. False: leave the VM now.
  bool stays() const noexcept;
  // A batch was served: the VM is not quiet.
  void note_served() noexcept {
    served_.store(served_.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
  }
  // A thread that waits for the VM's next event is not held, nor is one that moves on.
  void begin_wait(unsigned place) noexcept { turns_[place].begin_wait(); }
  void move_on(unsigned place) noexcept { turns_[place].move_on(); }
  // The next event brings another thread, if there is a place for it.
  void invite() const noexcept;
  bool is_single() const noexcept { return places_ == 1; }

 private:
  friend class Pool;
  // How far the thread at a place has come: odd while it waits for an event. That thread alone may
  // write.
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
    std::uint64_t turn_seen = 0;  // at the manager's last look
    std::uint64_t moved_ns = 0;   // when a look first saw that turn
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
  std::uint64_t key_ = 0;  // of `events_` in the epoll set; `wake_` has the next one
  bool stopping_ GUARDED_BY(&Pool::mutex_) = false;
  unsigned taken_ GUARDED_BY(&Pool::mutex_) = 0;
  std::array<Place, kPlacesMax> at_ GUARDED_BY(&Pool::mutex_){};
  std::uint64_t served_seen_ GUARDED_BY(&Pool::mutex_) = 0;
  std::uint64_t cpu_left_ns_ GUARDED_BY(&Pool::mutex_) = 0;  // of threads that have left
};

template <typename V, ConstOr<Pool::Figures> S>
constexpr void visit(V& v, S& s) {
  v(gauge("fault_threads", "Threads that serve faults, or wait to serve some."), s.threads);
  v(gauge("fault_threads_serving", "Threads that are at a VM now."), s.serving);
  v(gauge("fault_threads_held", "Threads that a VM's process holds up."), s.held);
}

}  // namespace ramfold::fault
