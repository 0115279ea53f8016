// SPDX-License-Identifier: GPL-2.0-or-later
// What outlives the daemon, by name: "store.*" and "vm.<id>.*", handed to the keeper before
// anything is punched and taken back at the start.
// Threads: any; one call to the keeper at a time, which takes as long as the keeper lets it. What
// is asked about the keeper (connected() to keeper_pid()) is answered from a copy: nobody waits
// there for a keeper that is stopped.
// Invariants: the keeper never holds a VM without the store that its pages are in: keep_vm() hands
// the store over first, drop_store() refuses while a VM is kept. No owner has more of the keeper's
// places than its share (base/owner_share.hpp), so that none keeps the others' VMs out.
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/thread_annotations.hpp"
#include "guest/vm.hpp"
#include "keeper/client.hpp"
#include "store/files.hpp"
#include "sys/subordinate_ids.hpp"

namespace ramfold::store {
class Contents;
}

namespace ramfold::daemon {

struct KeptVm {
  guest::VmRecord record;
  guest::Vm::Files files;
};

// A VM that may be folded and that this daemon cannot serve. It stays with the keeper, and what its
// pages name stays in the store, until it has ended or can be served.
struct UnusableVm {
  VmId id;
  std::string why;
  sys::Fd pidfd;  // may be absent
  // Only what is left of another daemon stands in the way; nothing: it cannot be read.
  std::optional<KeptVm> held;
};

struct Inheritance {
  std::optional<store::StoreFiles> store;
  std::vector<KeptVm> vms;
  std::vector<UnusableVm> unusable;
  std::vector<std::string> dropped;  // hand-overs that never ended, in words for the log
  VmId last{0};                      // the highest number that any of these has
};

class Keeping {
 public:
  explicit Keeping(std::string socket, sys::SubordinateIds ids = sys::SubordinateIds{})
      : socket_(std::move(socket)), ids_(std::move(ids)) {}

  // Connects when not connected. Cheap when it is.
  Status connect();
  // A keeper that is there and does not answer is waited for, `patience_ns` at most; one that is
  // not there (no socket, or nobody listens) is not. `waits` is called once, before the first wait.
  Status connect_patiently(std::uint64_t patience_ns, const std::function<void()>& waits);
  bool connected() const;
  // The last connect() met a keeper that did not answer.
  bool silent() const;
  // Its connection is in the way of this daemon's, and nobody reads it
  // (daemon/custody/predecessor.hpp).
  // Before the first connect().
  void replace(pid_t daemon) noexcept { replaces_ = daemon; }
  // So that another daemon may connect while this process lives.
  void disconnect();
  bool backed() const;
  std::uint64_t held() const;
  // It came after this daemon's start with a store of a predecessor's.
  bool holds_anothers_store() const;
  // The keeper's process; -1 when it is not connected.
  pid_t keeper_pid() const;
  // What a predecessor left. VMs whose hand-over never ended are dropped: nothing of them was
  // folded.
  Result<Inheritance> inherit();
  // The store first, unless it is kept; the VM's record last: a VM without one was never folded.
  // EBUSY: the keeper holds another's store. EDQUOT: the VM's owner has its share of the keeper.
  Status keep_vm(const guest::Vm& vm, const store::Contents& contents);
  // Nothing happens where the keeper holds another's store: under this number it holds another's
  // VM, which may live.
  Status drop_vm(VmId id);
  // EBUSY: a VM is kept, whose pages may be in it. Nothing to do when it never was kept.
  Status drop_store();

 private:
  // What is known of the keeper, for whoever may not wait for a call.
  struct Known {
    std::shared_ptr<const sys::Fd> socket;  // of its own, to see the end by; null: not connected
    pid_t keeper = -1;
    bool backed = false;
    bool anothers_store = false;
    std::uint64_t held = 0;
    bool connected() const noexcept;
  };
  // Holds mutex_. At its end the copy says how things are.
  class SCOPED_CAPABILITY Working {
   public:
    explicit Working(Keeping& keeping) ACQUIRE(keeping.mutex_) : keeping_(keeping) {
      keeping_.mutex_.lock();
    }
    ~Working() RELEASE() {
      keeping_.publish();
      keeping_.mutex_.unlock();
    }
    Working(const Working&) = delete;
    Working& operator=(const Working&) = delete;

   private:
    Keeping& keeping_;
  };
  // Of the keeper's: descriptors, and bytes of their names.
  struct Places {
    std::size_t descriptors = 0;
    std::size_t bytes = 0;
    uid_t account = 0;
  };
  void publish() REQUIRES(mutex_);
  void note_owner(const KeptVm& vm) EXCLUDES(mutex_);
  Status check_share(const Places& wanted) const REQUIRES(mutex_);  // connected
  Status call(auto&& request) EXCLUDES(mutex_);
  Status keep_store(keeper::Client& client, const store::Contents& contents) REQUIRES(mutex_);

  const std::string socket_;
  sys::SubordinateIds ids_ GUARDED_BY(mutex_);
  pid_t replaces_ = 0;
  mutable Mutex mutex_ ACQUIRED_BEFORE(known_mutex_){"Keeping"};  // for as long as a call takes
  std::optional<keeper::Client> client_ GUARDED_BY(mutex_);
  std::shared_ptr<const sys::Fd> watched_ GUARDED_BY(mutex_);  // its socket once more
  std::atomic<bool> silent_{false};
  // Of this connection.
  bool store_kept_ GUARDED_BY(mutex_) = false;
  std::map<std::uint32_t, Places> vms_kept_ GUARDED_BY(mutex_);  // what each has
  std::set<std::uint32_t> vms_to_drop_ GUARDED_BY(mutex_);       // while the keeper was away
  bool anothers_store_ GUARDED_BY(mutex_) = false;
  // Ever since the start: a keeper that comes back has it from its service manager.
  bool store_handed_over_ GUARDED_BY(mutex_) = false;
  mutable Mutex known_mutex_{"Keeping::known"};  // for a moment
  Known known_ GUARDED_BY(known_mutex_);
};

}  // namespace ramfold::daemon
