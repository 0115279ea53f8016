// SPDX-License-Identifier: GPL-2.0-or-later
// The background work after recovery: scanning, folding, and giving stored contents cheaper forms.
// Reforming is switched on and off at run time; its worker is made when it is first switched on.
// Threads: start() and stop() from one; tend() from one; the others from any, at any time.
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <string>

#include "base/thread_annotations.hpp"
#include "daemon/work/mapping_worker.hpp"
#include "daemon/work/reform_worker.hpp"
#include "daemon/work/scan_workers.hpp"

namespace ramfold::daemon {

class Work {
 public:
  // REQUIRES: all outlive this.
  Work(VmSet& vms, store::Contents& contents, HostState& state, const policy::Config& config,
       const Sources::Kernel& kernel);

  void start();
  // Takes up the settings of scanning, folding and reforming.
  void set(const policy::Config& config) EXCLUDES(reform_mutex_);
  // See ScanWorkers::fold_with().
  void fold_with(const sys::PinTest& test) noexcept { scan_.fold_with(test); }
  // See MappingWorker::map_with().
  void map_with(const sys::PinTest& pages, const sys::PrivatePins& copies) noexcept {
    mapping_.map_with(pages, copies);
  }
  void map_nothing() noexcept { mapping_.map_nothing(); }
  // See ScanWorkers::ask_through() and MappingWorker::ask_through().
  void ask_through(AgentAnswers& agents) noexcept {
    scan_.ask_through(agents, sources_);
    mapping_.ask_through(agents);
  }
  // The source that tells which pages guests touch.
  struct Asked {
    std::string_view source;                 // "off": none
    std::optional<control::Reason> refusal;  // of the source that the configuration wants
  };
  Asked asked() const;
  void stop() noexcept;
  // Call it regularly; see ScanWorkers::tend().
  void tend() EXCLUDES(reform_mutex_);

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
  // nullopt: contents keep their forms.
  std::optional<Reform> reform() const;
  // Mean time to decode a page of this group, in nanoseconds (read_cost.hpp). The cost that every
  // page has is not in it.
  double mean_read_ns(GroupId group) const;

 private:
  store::Contents& contents_;
  HostState& state_;
  // Makes the reform worker when it is needed for the first time.
  void tend_reform() REQUIRES(reform_mutex_);
  void tend_mapping();
  void tell_referenced(policy::Referenced wanted) const;  // in the log

  const Sources sources_;
  ScanWorkers scan_;
  std::atomic<policy::Referenced> referenced_;
  MappingWorker mapping_;
  bool mapping_complained_ = false;
  Mutex reform_mutex_{"Work::reform"};
  policy::ReformConfig reform_config_ GUARDED_BY(reform_mutex_);
  std::string reform_complaint_ GUARDED_BY(reform_mutex_);  // the last one that was logged
  std::unique_ptr<ReformWorker> owned_reform_ GUARDED_BY(reform_mutex_);
  bool stopped_ GUARDED_BY(reform_mutex_) = false;
  std::atomic<const ReformWorker*> reform_{nullptr};  // set once, then constant
  std::atomic<double> cpu_s_per_gib_hour_{0};         // 0: contents keep their forms
  std::atomic<bool> started_{false};
};

}  // namespace ramfold::daemon
