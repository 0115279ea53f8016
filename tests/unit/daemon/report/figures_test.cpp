// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/report/figures.hpp"

#include <algorithm>
#include <array>
#include <catch2/catch.hpp>
#include <map>
#include <nlohmann/json.hpp>

#include "../../described.hpp"
#include "control/view_json.hpp"

using namespace ramfold;
using namespace ramfold::daemon;

namespace {

using Values = std::map<std::string, std::uint64_t>;

Values values_of(const std::vector<control::CounterView>& views) {
  Values values;
  for (const control::CounterView& view : views) values[view.name] = view.value;
  CHECK(values.size() == views.size());  // no name twice
  return values;
}

// Gives each figure a value that no other has.
struct Filler {
  std::uint64_t next;
  Values values{};

  template <typename T>
  void operator()(const Metric& metric, T& member) {
    const std::uint64_t value = ++next;
    if constexpr (std::same_as<T, Counter>) {
      member.set(value);
    } else if constexpr (std::same_as<T, LatencyHistogram>) {
      for (std::uint64_t i = 0; i < value; ++i) member.record(value);
    } else if constexpr (requires { member.value; }) {
      member.value = value;
    } else {
      member = static_cast<T>(value);
    }
    values[std::string(metric.name)] = value;
  }
  template <typename... T>
  void elsewhere(T&...) {}
};

template <typename S>
std::vector<Metric> described(const S& s) {
  std::vector<Metric> all;
  const auto note = [&](const Metric& metric, const auto&) { all.push_back(metric); };
  each_figure(s, note, note);
  return all;
}

template <typename S>
Values fill(S& s, std::uint64_t first) {
  Filler filler{first};
  visit(filler, s);
  return filler.values;
}

struct Host {
  store::Stats store;
  store::ReformFigures reform;
  HostFigures figures{store, reform, {}};
};

}  // namespace

TEST_CASE("every counter of a VM reaches JSON under its name and comes back") {
  guest::VmCounters counters;
  Values expected = fill(counters, 100);
  control::VmView view;
  view.counters = counters_of(counters);
  view.faults = faults_of(counters);
  const auto json = control::to_json(view);
  control::VmView back;
  REQUIRE(control::from_json(json, back));
  CHECK(back == view);
  for (const control::FaultKindView& kind : back.faults) {
    INFO(kind.kind);
    CHECK(kind.count == expected.at(kind.kind));
    CHECK(kind.max_ns == expected.at(kind.kind));
    CHECK(kind.p50_ns == kind.max_ns);
    expected.erase(kind.kind);
  }
  CHECK(values_of(back.counters) == expected);
  for (const auto& [name, value] : expected) CHECK(json["counters"][name] == value);
}

TEST_CASE("the kinds of faults are those that programs know") {
  std::vector<std::string> kinds;
  for (const auto& kind : faults_of(guest::VmCounters{})) kinds.push_back(kind.kind);
  CHECK(kinds == std::vector<std::string>{"zero", "content", "write"});
}

TEST_CASE("the host has the sums over its VMs, and the events of VMs that have left") {
  std::array<guest::VmCounters, 2> vms;
  const std::array mine{fill(vms[0], 100), fill(vms[1], 1000)};
  guest::VmCounters left;
  const Values of_left = fill(left, 10'000);
  guest::VmCounters gone;
  guest::add_events(left, gone);
  guest::add_events(left, gone);
  Host host;
  const std::array<const guest::VmCounters*, 2> counted{&vms[0], &vms[1]};
  const Values sums = values_of(counters_of(host.figures, counted, gone));
  std::size_t checked = 0;
  each_figure(vms[0], [&](const Metric& metric, std::uint64_t) {
    const std::string name(metric.name);
    INFO(name);
    const std::uint64_t events =
        metric.kind == MetricKind::counter ? 2 * of_left.at(name) : std::uint64_t{0};
    CHECK(sums.at(name) == mine[0].at(name) + mine[1].at(name) + events);
    ++checked;
  });
  CHECK(checked + 3 == mine[0].size());  // the others are durations
}

TEST_CASE("every figure of the host's own parts is told under its name") {
  store::Stats store;
  store::ReformFigures reform;
  fault::Pool::Figures threads{};
  Values expected = fill(store, 100);
  expected.merge(fill(reform, 200));
  expected.merge(fill(threads, 300));
  Values told = values_of(counters_of({store, reform, threads}, {}, guest::VmCounters{}));
  each_figure(guest::VmCounters{},
              [&](const Metric& metric, std::uint64_t) { told.erase(std::string(metric.name)); });
  CHECK(told == expected);
}

TEST_CASE("docs/control-protocol.md tells each counter as it is described, and no others") {
  std::vector<Metric> all = described(guest::VmCounters{});
  const Host host;
  each_host_figure(host.figures,
                   [&](const Metric& metric, std::uint64_t) { all.push_back(metric); });
  std::set<std::string> rows;
  std::set<std::string_view> names;
  for (const Metric& metric : all) {
    check_well_described(metric);
    CHECK(names.insert(metric.name).second);
    rows.insert(row_of(metric));
  }
  const std::string document = protocol_document();
  const std::size_t counters = document.find("\n## Counters\n");
  REQUIRE(counters != std::string::npos);
  check_same_rows(rows, rows_of_figures(document.substr(counters)));
}
