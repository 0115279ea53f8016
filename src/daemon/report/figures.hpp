// SPDX-License-Identifier: GPL-2.0-or-later
// The figures that the parts of the daemon count, by name. Each part describes its own figures
// (base/metric.hpp). This file is the one list of parts; every exporter walks it.
// Threads: any.
#pragma once

#include <span>
#include <vector>

#include "base/figures.hpp"
#include "control/views.hpp"
#include "fault/pool.hpp"
#include "guest/vm_counters.hpp"
#include "store/reform/reformer.hpp"
#include "store/stats.hpp"

namespace ramfold::daemon {

// The figures of one host that belong to no VM.
struct HostFigures {
  const store::Stats& store;
  const store::ReformFigures& reform;
  fault::Pool::Figures fault_threads;
};

template <typename Figure>
void each_host_figure(const HostFigures& host, Figure figure) {
  each_figure(host.store, figure);
  each_figure(host.reform, figure);
  each_figure(host.fault_threads, figure);
}

// The figures of one VM.
std::vector<control::CounterView> counters_of(const guest::VmCounters& vm);
std::vector<control::FaultKindView> faults_of(const guest::VmCounters& vm);
// The figures of the host: its own, and sums over its VMs. `gone`: the events of VMs that have
// left.
std::vector<control::CounterView> counters_of(const HostFigures& host,
                                              std::span<const guest::VmCounters* const> vms,
                                              const guest::VmCounters& gone);

}  // namespace ramfold::daemon
