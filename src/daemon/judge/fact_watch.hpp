// SPDX-License-Identifier: GPL-2.0-or-later
// Reads the facts of every VM again and again, and opens or closes its gate. Another consumer of
// RAM is handed on to be unfolded for. A process can hold up who reads about it
// (daemon/threads/apart.hpp), so each is read apart; a VM whose process does that is only observed,
// and the others are read as before. However often a look is asked for, a VM holds one thread at
// most. The log says why a VM is only observed (fleet/told_reason.hpp).
// Threads: begin() and check() by one; look_again() and look_now() by any.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>

#include "daemon/fleet/vm_set.hpp"
#include "daemon/judge/others_watch.hpp"
#include "guest/facts.hpp"

namespace ramfold::daemon {

class FactWatch {
 public:
  // How long no userfaultfd of QEMU's own is seen before the VM is attached anew. Who asks QEMU for
  // a background snapshot sets the capability first, for which QEMU opens and closes one.
  static constexpr std::uint64_t kRenewAfterNs = 10'000'000'000;
  // How long facts count when the kernel gives no thread to read them again: as long as those about
  // other processes (OthersWatch). Nothing that the agent holds depends on that.
  static constexpr std::uint64_t kFactsLastNs = OthersWatch::kLastNs;

  // Called, on whatever thread, for a VM whose RAM somebody else uses, and for one that was
  // unfolded for userfaultfds of QEMU's own, all of which are closed.
  using Sink = std::function<void(const VmHandle&)>;

  FactWatch(const VmSet& vms, const sys::Procfs& procfs, Sink must_unfold, Sink may_renew,
            const std::atomic<bool>& stopping)
      : vms_(vms),
        procfs_(procfs),
        must_unfold_(std::move(must_unfold)),
        may_renew_(std::move(may_renew)),
        stopping_(stopping) {}

  // Once, when the kernel was proved; before that no gate opens.
  void begin(guest::HostFacts host, const guest::Custody& custody);
  // All VMs. Gives the CPU time that looks have taken since the last call.
  std::uint64_t check();
  // One VM, soon and apart: its agent got ready, or says that something has changed. A request that
  // comes while a look runs is answered by one more look after that. A request for which there is
  // no thread is answered by the next check().
  void look_again(const VmHandle& vm) { (void)ask(vm, Want::look); }
  // The same, and waits for that look at most `patience_ns`.
  void look_now(const VmHandle& vm, std::uint64_t patience_ns);

 private:
  struct Sight {
    Sight(const sys::Procfs& procfs, guest::HostFacts host, const guest::Custody& custody)
        : facts(procfs, std::move(host)), others(facts, procfs, custody) {}
    guest::ProcFacts facts;
    OthersWatch others;
  };

  enum class Want : std::uint8_t { look, regular_look, regular_full_look };
  enum class LookThread : std::uint8_t { begun, runs_already, none };
  struct Request {
    std::uint64_t number = 0;
    LookThread thread = LookThread::none;
  };
  Request ask(const VmHandle& vm, Want want);
  // Looks until all requests are answered. On a thread of its own.
  void answer(const VmHandle& vm);
  // Waits for the look at most until `until_ns`, or a moment. False: the kernel gives no thread.
  bool look_regularly(const VmHandle& vm, Want want, std::uint64_t until_ns);
  void look(const VmHandle& vm, guest::Depth depth);

  const VmSet& vms_;
  const sys::Procfs& procfs_;
  const Sink must_unfold_;
  const Sink may_renew_;
  const std::atomic<bool>& stopping_;
  std::unique_ptr<Sight> owned_sight_;
  std::atomic<Sight*> sight_{nullptr};  // once begun, for good
  const LookCpu cpu_ = std::make_shared<std::atomic<std::uint64_t>>(0);
  std::uint64_t full_ns_ = 0;
  bool no_thread_ = false;  // logged: the kernel gives none
};

}  // namespace ramfold::daemon
