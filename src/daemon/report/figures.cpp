// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/report/figures.hpp"

#include <map>
#include <string_view>

namespace ramfold::daemon {
namespace {

using Sums = std::map<std::string_view, std::uint64_t>;  // the names are constants

void add(Sums& sums, const guest::VmCounters& vm) {
  each_figure(vm, [&](const Metric& metric, std::uint64_t value) { sums[metric.name] += value; });
}

std::vector<control::CounterView> views_of(const Sums& sums) {
  std::vector<control::CounterView> views;
  for (const auto& [name, value] : sums) views.push_back({std::string(name), value});
  return views;
}

}  // namespace

std::vector<control::CounterView> counters_of(const guest::VmCounters& vm) {
  Sums sums;
  add(sums, vm);
  return views_of(sums);
}

std::vector<control::FaultKindView> faults_of(const guest::VmCounters& vm) {
  std::vector<control::FaultKindView> faults;
  each_figure(
      vm, [](const Metric&, std::uint64_t) {},
      [&](const Metric& metric, const LatencyHistogram& times) {
        faults.push_back({std::string(metric.name), times.count(), times.quantile_ns(0.5),
                          times.quantile_ns(0.99), times.max_ns()});
      });
  return faults;
}

std::vector<control::CounterView> counters_of(const HostFigures& host,
                                              std::span<const guest::VmCounters* const> vms,
                                              const guest::VmCounters& gone) {
  Sums sums;
  add(sums, gone);
  for (const guest::VmCounters* vm : vms) add(sums, *vm);
  each_host_figure(host,
                   [&](const Metric& metric, std::uint64_t value) { sums[metric.name] = value; });
  return views_of(sums);
}

}  // namespace ramfold::daemon
