// SPDX-License-Identifier: GPL-2.0-or-later
// What goes on behind the guests' backs once recovery is over: scanning and folding, and giving
// stored contents cheaper forms.
// Threads: start() and stop() from one; tend() from one; the figures from any, at any time.
#pragma once

#include <atomic>
#include <memory>
#include <optional>

#include "daemon/work/reform_worker.hpp"
#include "daemon/work/scan_workers.hpp"

namespace ramfold::daemon {

class Work {
 public:
  // REQUIRES: all outlive this.
  Work(VmSet& vms, store::Contents& contents, HostState& state, const policy::Config& config);

  void start();
  void stop() noexcept;
  // Now and then; see ScanWorkers::tend().
  void tend();

  struct Cpu {
    std::uint64_t scan_ns = 0;
    std::uint64_t fold_ns = 0;
    std::uint64_t reform_ns = 0;
  };
  Cpu cpu() const noexcept;
  struct Reform {
    store::ReformFigures figures;
    double cpu_s_per_gib_hour = 0;
  };
  // Nothing: contents keep their form.
  std::optional<Reform> reform() const;
  // What reading a page of this group takes, beyond what every page takes.
  double mean_read_ns(GroupId group) const;

 private:
  store::Contents& contents_;
  HostState& state_;
  const policy::Config& config_;
  ScanWorkers scan_;
  std::unique_ptr<ReformWorker> owned_reform_;
  std::atomic<const ReformWorker*> reform_{nullptr};  // once made, for good
  std::atomic<bool> started_{false};
};

}  // namespace ramfold::daemon
