// SPDX-License-Identifier: GPL-2.0-or-later
// Reads the facts of every VM again and again, and opens or closes its gate. Another consumer of
// RAM is handed on to be unfolded for. A process can hold up who reads about it
// (daemon/threads/apart.hpp), so each is read apart; a VM whose process does that is only observed,
// and the others are read as before. Threads: check() from the housekeeping thread only;
// check_one() from any.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>

#include "daemon/fleet/attached_vm.hpp"
#include "daemon/judge/others_watch.hpp"
#include "guest/facts.hpp"

namespace ramfold::daemon {

class FactWatch {
 public:
  using MustUnfold = std::function<void(const VmHandle&)>;

  FactWatch(VmSet& vms, const guest::ProcFacts& facts, const sys::Procfs& procfs,
            const guest::Custody& custody) noexcept
      : vms_(vms), facts_(facts), others_(facts, procfs, custody) {}

  // `must_unfold` is called, on whatever thread, for a VM whose RAM somebody else uses. Gives the
  // CPU time that looks have taken since the last call.
  std::uint64_t check(const MustUnfold& must_unfold);
  // One VM, at once: after its agent got ready, and on its hints. May be held up by its process.
  void check_one(const VmHandle& vm, guest::Depth depth, const MustUnfold& must_unfold);

 private:
  // Waits for the look at most until `until_ns`, or a moment.
  void look_apart(const VmHandle& vm, guest::Depth depth, std::uint64_t until_ns,
                  const MustUnfold& must_unfold);
  // The verdict of a look at `sequence`.
  static void open_gate(AttachedVm& vm, guest::Gate::Mode mode, std::uint32_t sequence);

  VmSet& vms_;
  const guest::ProcFacts& facts_;
  OthersWatch others_;
  const LookCpu cpu_ = std::make_shared<std::atomic<std::uint64_t>>(0);
  std::uint64_t full_ns_ = 0;
};

}  // namespace ramfold::daemon
