// SPDX-License-Identifier: GPL-2.0-or-later
// `ramfold top`: what it shows of two snapshots, and the command without a terminal. The screen is
// in tests/unit/cli/top_screen.py.
#include "cli/top_view.hpp"

#include <algorithm>
#include <catch2/catch.hpp>

#include "../control/fake_service.hpp"
#include "cli/text.hpp"

using namespace ramfold;
using namespace ramfold::cli;
using control::Snapshot;
using control::VmState;

namespace {

control::VmView vm(std::uint32_t id, const char* name, double stalled, std::uint64_t returns) {
  control::VmView view = control::fake_vm(id, name, VmState::folding);
  view.stalled_seconds = stalled;
  view.backoff.returns = returns;
  view.stall_budget = 0.01;
  view.vcpus = 2;
  return view;
}

Snapshot snapshot(double uptime, std::vector<control::VmView> vms) {
  Snapshot made;
  made.host.state = control::HostState::folding;
  made.host.uptime_seconds = uptime;
  made.host.ram_total = ByteCount{8ull << 30};
  made.host.ram_available = ByteCount{5ull << 30};
  made.host.saved.net_bytes = 1 << 30;
  made.vms = std::move(vms);
  return made;
}

std::vector<std::string> names(const std::vector<TopRow>& rows) {
  std::vector<std::string> all;
  for (const TopRow& row : rows) all.push_back(row.name);
  return all;
}

using Names = std::vector<std::string>;

}  // namespace

TEST_CASE("top: rates are those between two looks, per vCPU and second") {
  const Snapshot before = snapshot(100, {vm(1, "web", 1.0, 500), vm(2, "db", 0.5, 10)});
  const Snapshot now =
      snapshot(104, {vm(1, "web", 1.4, 700), vm(2, "db", 0.5, 10), vm(3, "new", 9, 9)});
  const auto rows = top_rows(&before, now);
  REQUIRE(rows.size() == 3);
  CHECK(*rows[0].stall == Approx(0.05));
  CHECK(*rows[0].refaults == Approx(50));
  CHECK(rows[0].over_budget);
  CHECK(*rows[1].stall == 0);
  CHECK_FALSE(rows[1].over_budget);
  CHECK_FALSE(rows[2].stall);  // it came between the looks
  CHECK_FALSE(rows[2].refaults);
}

TEST_CASE("top: without an earlier look, after a restart and an attach there are no rates") {
  const Snapshot before = snapshot(100, {vm(1, "web", 1.0, 500)});
  CHECK_FALSE(top_rows(nullptr, before)[0].stall);
  CHECK(is_restarted(before, snapshot(3, {})));
  CHECK_FALSE(top_rows(&before, snapshot(3, {vm(1, "web", 2.0, 600)}))[0].stall);
  CHECK_FALSE(top_rows(&before, snapshot(102, {vm(1, "web", 0.1, 600)}))[0].stall);
  CHECK_FALSE(top_rows(&before, snapshot(102, {vm(1, "web", 2.0, 0)}))[0].refaults);
  CHECK_FALSE(top_rows(&before, snapshot(100, {vm(1, "web", 2.0, 500)}))[0].stall);
  CHECK(top_rows(&before, snapshot(102, {})).empty());
}

TEST_CASE("top: rows are sorted by each column, either way, equal ones by id") {
  Snapshot before = snapshot(1, {vm(1, "b", 0, 0), vm(2, "a", 0, 0), vm(3, "c", 0, 0)});
  Snapshot now =
      snapshot(2, {vm(3, "c", 0.5, 9), vm(1, "b", 0.1, 3), vm(2, "a", 0.5, 1), vm(4, "d", 7, 7)});
  now.vms[1].saved.net_bytes = 900'000'000;
  now.vms[2].pages.resident = PageCount{90000};
  auto rows = top_rows(&before, now);
  const auto by = [&](char key, bool reversed = false) {
    TopChoice choice;
    CHECK(choice.take(key, rows.size(), 10));
    if (reversed) choice.take('R', rows.size(), 10);
    sort_rows(rows, choice);
    return names(rows);
  };
  CHECK(by('N') == Names{"b", "a", "c", "d"});
  CHECK(by('M') == Names{"a", "b", "c", "d"});
  CHECK(by('S') == Names{"a", "c", "b", "d"});  // what is not known is last
  CHECK(by('T') == Names{"c", "b", "a", "d"});
  CHECK(by('A') == Names{"a", "b", "c", "d"});
  CHECK(by('A', true) == Names{"d", "c", "b", "a"});
  CHECK(by('I') == Names{"b", "a", "c", "d"});
  CHECK(by('F') == Names{"b", "a", "c", "d"});
  TopChoice choice;
  CHECK(choice.take('<', 4, 10));
  CHECK(choice.sort == TopColumn::refaults);
  CHECK(choice.take('>', 4, 10));
  CHECK(choice.take('>', 4, 10));
  CHECK(choice.sort == TopColumn::id);
  CHECK_FALSE(choice.take('x', 4, 10));
  CHECK_FALSE(choice.take('\0', 4, 10));
}

TEST_CASE("top: 80 columns hold every column; narrow ones leave some out, none is exceeded") {
  const Snapshot before = snapshot(1, {vm(1, "web", 0, 0)});
  Snapshot now = snapshot(2, {vm(1, "web", 0.001, 3)});
  now.vms[0].name = "a-very-long-name-of-a-virtual-machine";
  auto rows = top_rows(&before, now);
  const auto lines = render_rows(rows, TopColumn::net, 80);
  REQUIRE(lines.size() == 2);
  CHECK(lines[0].text ==
        "   ID NAME       STATE         RESIDENT    FOLDED    STALL  REFAULT/s NET SAVED*");
  CHECK(lines[1].text ==
        "    1 a-very-lon folding       85.9 MiB   148 MiB   0.05 %          3    134 MiB");
  for (std::size_t width = 1; width <= 120; ++width) {
    for (const TopLine& line : render_rows(rows, TopColumn::net, width)) {
      CHECK(width_of(line.text) <= width);
    }
  }
  CHECK(render_rows(rows, TopColumn::net, 40)[0].text.find("STALL") != std::string::npos);
}

TEST_CASE("top: names cannot deceive the terminal, and wide ones keep the columns in place") {
  Snapshot now = snapshot(2, {vm(1, "\x1b[2J\nevil", 0, 0), vm(2, "日本語日本語日本語", 0, 0)});
  const auto lines = render_rows(top_rows(nullptr, now), TopColumn::id, 80);
  CHECK(lines[1].text.find('\x1b') == std::string::npos);
  CHECK(lines[1].text.find('\n') == std::string::npos);
  CHECK(width_of(lines[1].text) == width_of(lines[0].text));
  CHECK(width_of(lines[2].text) == width_of(lines[0].text));
}

TEST_CASE("top: a screen has as many lines as the terminal, and scrolls") {
  std::vector<control::VmView> vms;
  for (std::uint32_t id = 1; id <= 30; ++id) vms.push_back(vm(id, "vm", 0, 0));
  const Snapshot now = snapshot(2, std::move(vms));
  auto rows = top_rows(nullptr, now);
  TopChoice choice;
  choice.sort = TopColumn::id;
  for (const std::size_t height : {1u, 2u, 3u, 4u, 10u, 24u, 100u}) {
    const auto lines = render_top(&now, rows, choice, "", 80, height);
    CHECK(lines.size() == std::min<std::size_t>(height, 33));
  }
  const auto first_id = [&] {
    return render_top(&now, rows, choice, "", 80, 13)[3].text.substr(0, 5);
  };
  CHECK(first_id() == "    1");
  choice.take(kTopDown, rows.size(), rows_on(13));
  CHECK(first_id() == "    2");
  choice.take(kTopPageDown, rows.size(), rows_on(13));
  CHECK(first_id() == "   12");
  for (int i = 0; i < 9; ++i) choice.take(kTopPageDown, rows.size(), rows_on(13));
  CHECK(first_id() == "   21");
  // VMs that go take the place with them.
  rows.resize(12);
  CHECK(first_id() == "    3");
  choice.take(kTopUp, rows.size(), rows_on(13));
  CHECK(first_id() == "    2");
  choice.take(kTopPageUp, rows.size(), rows_on(13));
  CHECK(first_id() == "    1");
}

TEST_CASE("top: the second line tells the keys, a notice, or the help") {
  const Snapshot now = snapshot(2, {});
  TopChoice choice;
  CHECK(render_top(&now, {}, choice, "", 80, 24)[0].text ==
        "ramfold top - folding, 0 VMs, net saved 1.0 GiB, available 5.0 GiB of 8.0 GiB");
  CHECK(render_top(&now, {}, choice, "", 80, 24)[1].text.starts_with("q quit"));
  CHECK(render_top(nullptr, {}, choice, "gone", 80, 24)[1].text == "gone");
  choice.take('h', 0, 10);
  CHECK(render_top(&now, {}, choice, "gone", 80, 24)[1].text.starts_with("sort by"));
}
