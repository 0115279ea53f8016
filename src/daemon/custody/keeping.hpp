// SPDX-License-Identifier: GPL-2.0-or-later
// The daemon's side of the keeper. Files that must outlive the daemon have the names "store.*",
// "pool.*" and "vm.<id>.*". They are given to the keeper before anything is punched, and taken back
// at the start.
// Threads: any. One call to the keeper at a time; it takes as long as the keeper needs. The const
// functions answer from a copy and never wait for a stopped keeper.
// Invariants: the keeper never holds a VM without the store and the pools that have its pages:
// keep_vm() gives the store first, then the pools, and drop_store() refuses while a VM is kept. A
// pool is given before a page can map it. No owner has more of the keeper's places
// than its share (base/owner_share.hpp), so no owner keeps the VMs of others out.
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "base/thread_annotations.hpp"
#include "daemon/custody/kept_pools.hpp"
#include "guest/vm.hpp"
#include "keeper/client.hpp"
#include "store/files.hpp"
#include "sys/subordinate_ids.hpp"

namespace ramfold::daemon {

struct KeptVm {
  guest::VmRecord record;
  guest::Vm::Files files;
};

// A VM that may have folded pages and that this daemon cannot serve. It stays with the keeper, and
// its contents stay in the store, until it ends or can be served.
struct UnusableVm {
  VmId id;
  std::string why;
  std::string group;  // empty: not known
  sys::Fd pidfd;      // may be absent
  // Set: it can be served after the rest of an earlier daemon has ended. nullopt: it cannot be
  // read.
  std::optional<KeptVm> held;
};

struct Inheritance {
  std::optional<store::StoreFiles> store;
  std::vector<KeptVm> vms;
  std::vector<UnusableVm> unusable;
  std::vector<std::string> dropped;  // VMs whose hand-over was not complete, as text for the log
  VmId last{0};                      // the highest id of all VMs that the keeper holds
};

class Keeping {
 public:
  explicit Keeping(std::string socket, sys::SubordinateIds ids = sys::SubordinateIds{})
      : socket_(std::move(socket)), ids_(std::move(ids)) {}

  // Connects, unless connected. Cheap if connected.
  Status connect();
  // As connect(). If the keeper runs and does not answer, tries again for at most `patience_ns`. If
  // it does not run (no socket, or nobody listens), does not wait. `waits` is called once, before
  // the first wait.
  Status connect_patiently(std::uint64_t patience_ns, const std::function<void()>& waits);
  bool connected() const;
  // True: in the last connect() the keeper did not answer.
  bool silent() const;
  // The keeper may replace its connection to the process `daemon`, which cannot end and does not
  // read it any more (daemon/custody/predecessor.hpp).
  // Call it before the first connect().
  void replace(pid_t daemon) noexcept { replaces_ = daemon; }
  // Lets another daemon connect while this process lives.
  void disconnect();
  bool backed() const;
  std::uint64_t held() const;
  // The keeper came after the start of this daemon and holds the store of an earlier daemon.
  bool holds_anothers_store() const;
  // The keeper's process; -1: not connected.
  pid_t keeper_pid() const;
  // Takes what an earlier daemon left. Drops VMs whose hand-over was not complete: they were never
  // folded.
  Result<Inheritance> inherit();
  // Gives the keeper the store and the pools (unless it has them), then the VM, the VM's record
  // last: a VM without a record was never folded. Errors: EBUSY, the keeper holds the store of an
  // earlier daemon; EDQUOT, the VM's owner has used up its share of the keeper; others from the
  // call.
  Status keep_vm(const guest::Vm& vm, const store::StoreFiles& store);
  // Does nothing if the keeper holds the store of an earlier daemon: the VM with this number is
  // then a VM of that daemon, and may live. If the call fails, connect() drops the VM later.
  Status drop_vm(VmId id);
  // Gives the keeper the pool of a VM's group, before a page of the VM maps it. Errors: ENOENT, the
  // keeper does not hold the VM; others as keep_vm().
  Status keep_pool(const store::PoolFile& pool, const guest::Vm& vm);
  // The keeper forgets the pools that are not among these: their groups are gone.
  Status forget_pools_but(std::span<const store::PoolFile> pools);
  // Drops the pools, then the store. Does nothing if the store was never given to the keeper.
  // EBUSY: the keeper holds a VM, whose pages may be in the store.
  Status drop_store();

 private:
  // The copy of the keeper's state, for callers that must not wait.
  struct Known {
    // A duplicate, to see the end of the connection; null: not connected.
    std::shared_ptr<const sys::Fd> socket;
    pid_t keeper = -1;
    bool backed = false;
    bool anothers_store = false;
    std::uint64_t held = 0;
    bool connected() const noexcept;
  };
  // Holds mutex_. Its destructor updates the copy.
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
  using Places = KeeperPlaces;
  void publish() REQUIRES(mutex_);
  void note_owner(const KeptVm& vm) EXCLUDES(mutex_);
  Status note_pools(std::span<const store::PoolFile> pools, bool store) REQUIRES(mutex_);
  Status check_share(const Places& wanted) const REQUIRES(mutex_);  // and: connected
  Status call(auto&& request) EXCLUDES(mutex_);
  Status keep_store(keeper::Client& client, const store::StoreFiles& store) REQUIRES(mutex_);

  const std::string socket_;
  sys::SubordinateIds ids_ GUARDED_BY(mutex_);
  pid_t replaces_ = 0;
  mutable Mutex mutex_ ACQUIRED_BEFORE(known_mutex_){
      "Keeping"};  // held during a call to the keeper
  std::optional<keeper::Client> client_ GUARDED_BY(mutex_);
  std::shared_ptr<const sys::Fd> watched_ GUARDED_BY(mutex_);  // a duplicate of its socket
  std::atomic<bool> silent_{false};
  // The state of this connection.
  bool store_kept_ GUARDED_BY(mutex_) = false;
  std::map<std::uint32_t, Places> vms_kept_ GUARDED_BY(mutex_);  // the places of each VM
  std::set<std::uint32_t> vms_to_drop_ GUARDED_BY(mutex_);       // left while the keeper was away
  KeptPools pools_ GUARDED_BY(mutex_);
  bool anothers_store_ GUARDED_BY(mutex_) = false;
  // Not of this connection: after the store was given once, a keeper that restarts gets it back
  // from its service manager.
  bool store_handed_over_ GUARDED_BY(mutex_) = false;
  mutable Mutex known_mutex_{"Keeping::known"};  // held for a moment only
  Known known_ GUARDED_BY(known_mutex_);
};

}  // namespace ramfold::daemon
