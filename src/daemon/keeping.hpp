// SPDX-License-Identifier: GPL-2.0-or-later
// What outlives the daemon, by name: "store.*" and "vm.<id>.*", handed to the keeper before anything is
// punched and taken back at the start.
// Threads: any; one call at a time inside.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "guest/vm.hpp"
#include "keeper/client.hpp"
#include "store/contents.hpp"

namespace ramfold::daemon {

struct KeptVm {
  guest::VmRecord record;
  guest::Vm::Files files;
};

struct Inheritance {
  std::optional<store::Contents::Files> store;
  std::vector<KeptVm> vms;
  std::vector<std::string> dropped;  // prefixes that were incomplete, in words for the log
};

class Keeping {
 public:
  explicit Keeping(std::string socket) : socket_(std::move(socket)) {}

  // Connects when not connected. Cheap when it is.
  Status connect();
  bool connected() const;
  bool backed() const;
  std::uint64_t held() const;
  // The keeper's process; -1 when it is not connected.
  pid_t keeper_pid() const;
  // What a predecessor left. VMs whose hand-over never ended are dropped: nothing of them was folded.
  Result<Inheritance> inherit();
  Status keep_store(const store::Contents& contents);
  // The VM's record goes last; a VM without one was never folded.
  Status keep_vm(const guest::Vm& vm);
  Status drop_vm(VmId id);

 private:
  Status call(auto&& request);

  const std::string socket_;
  mutable std::mutex mutex_;
  std::optional<keeper::Client> client_;
  std::uint64_t held_ = 0;
};

}  // namespace ramfold::daemon
