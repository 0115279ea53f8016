// SPDX-License-Identifier: GPL-2.0-or-later
// What outlives the daemon, by name: "store.*" and "vm.<id>.*", handed to the keeper before
// anything is punched and taken back at the start.
// Threads: any; one call at a time inside.
// Invariants: the keeper never holds a VM without the store that its pages are in: keep_vm() hands
// the store over first, drop_store() refuses while a VM is kept.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "guest/vm.hpp"
#include "keeper/client.hpp"
#include "store/files.hpp"

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
  explicit Keeping(std::string socket) : socket_(std::move(socket)) {}

  // Connects when not connected. Cheap when it is.
  Status connect();
  bool connected() const;
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
  // EBUSY: the keeper holds another's store.
  Status keep_vm(const guest::Vm& vm, const store::Contents& contents);
  // Nothing happens where the keeper holds another's store: under this number it holds another's
  // VM, which may live.
  Status drop_vm(VmId id);
  // EBUSY: a VM is kept, whose pages may be in it. Nothing to do when it never was kept.
  Status drop_store();

 private:
  Status call(auto&& request);
  Status keep_store(keeper::Client& client, const store::Contents& contents);

  const std::string socket_;
  pid_t replaces_ = 0;
  mutable std::mutex mutex_;
  std::optional<keeper::Client> client_;
  // Of this connection.
  bool store_kept_ = false;
  std::map<std::uint32_t, std::size_t> vms_kept_;  // how many descriptors of each
  std::set<std::uint32_t> vms_to_drop_;            // while the keeper was away
  bool anothers_store_ = false;
  // Ever since the start: a keeper that comes back has it from its service manager.
  bool store_handed_over_ = false;
};

}  // namespace ramfold::daemon
