// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/judge/host_words.hpp"

#include <fmt/format.h>

#include <utility>

namespace ramfold::daemon::host_words {

using control::Reason;

Reason state(const std::string& why_unreadable) {
  return {"state", "the operator's earlier decisions cannot be read: " + why_unreadable,
          "`ramfold resume` puts that file aside and folds again, also VMs that were paused or "
          "detached"};
}

Reason starting() { return {"starting", "the self-test of the kernel is running", "wait"}; }

Reason self_test() {
  return {"self-test", "a fact about the kernel that folding relies on does not hold here",
          "see `ramfold doctor`; Linux 6.7 or newer is needed"};
}

Reason no_pin_test(const guest::NoPinTest& why) {
  return {"no-pin-test", "the kernel cannot be asked who holds a page: " + why.text, why.remedy};
}

Reason no_keeper(KeeperIs keeper) {
  return {"no-keeper",
          keeper == KeeperIs::silent
              ? "the keeper is there and does not answer, so nothing may be folded"
              : "the keeper is not there, so nothing may be folded",
          "systemctl start ramfold-keeper"};
}

Reason recovering() {
  return {"recovering", "the indexes are being rebuilt after a restart", "wait"};
}

Reason not_recovered(const std::string& why) {
  return {"not-recovered", "the indexes cannot be rebuilt after a restart: " + why,
          "free memory or add swap, it is tried again by itself; folded pages are served"};
}

Reason unusable_vm(VmId vm, const std::string& why, bool held) {
  return {"unusable-vm",
          fmt::format("vm {} was folded by a predecessor and cannot be served: {}", vm.value, why),
          held ? "end that VM, or what holds its memory map or its RAM file: a file system that "
                 "does not answer?; contents that it may name stay in the store meanwhile"
               : "start the ramfold that folded it, or end that VM; contents that it may name stay "
                 "in the store meanwhile"};
}

Reason off(const std::optional<std::string>& trouble, const std::optional<std::string>& but_lost) {
  if (trouble) {
    return {"off", "switched off, and not everything is back: " + *trouble,
            "free memory or add swap, it is tried again by itself; or fold again: "
            "`ramfold resume`"};
  }
  if (but_lost) {
    return {"off", "switched off; everything is back but " + *but_lost,
            "restart those VMs; until they end, ramfold has to run and serve them. Or "
            "fold the others again: `ramfold resume`"};
  }
  return {"off", "switched off by the operator", "`ramfold resume`"};
}

Reason paused() { return {"paused", "paused by the operator", "`ramfold resume`"}; }

Reason promise() {
  return {"promise", "if every folded page came back, the host's memory would not suffice",
          "add memory or swap, run fewer VMs, or raise host.unbacked_max"};
}

Reason meminfo() {
  return {"meminfo", "/proc/meminfo cannot be read", "check that /proc is mounted"};
}

Reason memory_plentiful(std::string remedy) {
  return {"memory-plentiful", "idle: memory plentiful", std::move(remedy)};
}

Reason store_full() {
  return {"store-full",
          "the store has no room for new contents: only zeros and pages that are stored already "
          "are folded",
          "raise host.arena_max or free memory"};
}

}  // namespace ramfold::daemon::host_words
