// SPDX-License-Identifier: GPL-2.0-or-later
// Everything for people fits 80 columns, with long names and large figures as well.
#include <catch2/catch.hpp>

#include "../control/fake_service.hpp"
#include "../estimate/pages.hpp"
#include "cli/doctor.hpp"
#include "cli/estimate.hpp"
#include "cli/list_view.hpp"
#include "cli/policy_view.hpp"
#include "cli/render.hpp"
#include "cli/unattached.hpp"

using namespace ramfold;
using namespace ramfold::cli;
using namespace ramfold::control;

namespace {

constexpr std::size_t kColumns = 80;
const Style kNarrow(false, kColumns);

std::vector<std::string> lines(const std::string& text) {
  std::vector<std::string> all;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = text.find('\n', at);
    all.push_back(text.substr(at, end - at));
    at = end == std::string::npos ? text.size() : end + 1;
  }
  return all;
}

void check_fits(const std::string& text) {
  for (const std::string& line : lines(text)) {
    INFO(line);
    CHECK(width_of(line) <= kColumns);
  }
}

// As long and as large as it gets: a terabyte-sized VM with a record's longest name.
VmView large_vm(std::uint32_t id) {
  VmView vm = fake_vm(id, "", VmState::observe_only);
  vm.name = "instance-0000f3a7-production-database-with-a-very-long-name-0042";
  vm.group = "set:" + std::string(59, 'g');
  vm.pid = 4'194'303;
  vm.uid = 4'294'967'294;
  vm.pages = {PageCount{1ull << 31}, PageCount{(1ull << 31) - 1}, PageCount{1023ull << 18},
              PageCount{1ull << 31}, PageCount{1ull << 31},       PageCount{999'999'999},
              PageCount{1ull << 31}, PageCount{1ull << 31}};
  vm.saved = {{PageCount{1ull << 30}, ByteCount{1ull << 42}},
              {PageCount{1ull << 30}, ByteCount{1ull << 42}},
              {PageCount{1ull << 30}, ByteCount{1ull << 42}},
              -(1023ll << 30)};
  vm.stall_share = 12.3456;
  vm.reasons = {{"other_mapper",
                 "process 4194303 (/usr/libexec/a-back-end-with-a-long-name-0042) maps the VM's "
                 "RAM",
                 "stop that process and restart the VM, as the operator's guide tells in its "
                 "second chapter"},
                locked_reason()};
  vm.faults = {{"zero", ~0ull >> 8, 9'000'000'000, 21'000'000'000, 80'000'000'000}};
  vm.passes = 123'456'789;
  vm.pass_seconds = 86'399;
  vm.backoff = {PageCount{1ull << 31}, 1ull << 40};
  vm.fault_events = 1ull << 50;
  vm.fault_errors = 1ull << 40;
  vm.blocks = {{"/objects/mem-numa-node-0001", HostVirt{0x7fffffffffff000}, ByteCount{1ull << 43},
                ByteCount{1ull << 43}, ~0ull >> 8}};
  vm.reform = ReformView{};
  return vm;
}

ReformView busy_reform() {
  ReformView reform;
  reform.cpu_s_per_gib_hour = 3'600'000;
  reform.attempts = reform.moved = reform.rewritten = 1ull << 40;
  for (const char* form : {"raw", "lz4", "zstd", "patch", "delta", "mix", "mix_delta"}) {
    FormView view;
    view.form = form;
    view.contents = 1ull << 33;
    view.stored = ByteCount{1ull << 45};
    view.decode_ns = view.decode_columns_ns = 999'000;
    view.patch_after_s = view.dense_after_s = view.densest_after_s = view.mixed_after_s = 86'399;
    reform.forms.push_back(view);
  }
  return reform;
}

Snapshot large_host() {
  FakeService service;
  Snapshot snapshot = service.snapshot();
  snapshot.vms = {large_vm(1), large_vm(98'765)};
  for (VmView& vm : snapshot.vms) vm.reform = busy_reform();
  HostView& host = snapshot.host;
  host.kernel = "6.18.0-cloud-amd64-rt-with-a-vendor-suffix-1.2.3";
  host.reasons = snapshot.vms[0].reasons;
  host.saved = snapshot.vms[0].saved;
  host.reform = busy_reform();
  host.spent.arena_used = host.spent.arena_allocated = ByteCount{1ull << 45};
  host.ram_total = host.ram_available = host.keep_available = ByteCount{1023ull << 40};
  host.promise = {ByteCount{1023ull << 40}, ByteCount{1023ull << 40}, {}, {}};
  host.self_test.push_back({"guard of a page that was never touched", CheckOutcome::failed,
                            "the page was written to although it was guarded, as of 22 tries",
                            "boot another kernel; until then ramfold only observes"});
  host.contents = ~0ull >> 1;
  host.counters = {{"folds_that_were_given_up_because_of_something", ~0ull}};
  host.uptime_seconds = 1e9;
  return snapshot;
}

}  // namespace

TEST_CASE("what is shown fits 80 columns, whatever names and figures are") {
  const Snapshot snapshot = large_host();
  FakeService service;
  for (const Snapshot& shown : {snapshot, service.snapshot(), Snapshot{}}) {
    check_fits(render_status(shown, kNarrow));
    check_fits(render_list(shown, kNarrow));
    for (const VmView& vm : shown.vms) check_fits(render_vm(vm, kNarrow));
    check_fits(render_counters(shown.host.counters, kNarrow));
  }
  check_fits(render_error({Failure::refused,
                           std::string(5, 'x') + " no memory for what should come "
                                                 "back of the virtual machine that was named",
                           "free that much memory "
                           "(stop or migrate a VM, add swap), or lower host.reserve",
                           ByteCount{1}},
                          kNarrow));
  check_fits(render_plan({PageCount{1ull << 31}, ByteCount{1ull << 43}, ByteCount{1ull << 43}, 1e5},
                         "detach " + snapshot.vms[0].name, kNarrow));
  check_fits(render_progress({PageCount{1ull << 31}, PageCount{1ull << 31}, 1e6}));
  Check check;
  check.id = "vm.command";
  check.subject = "web (pid 4194303)";
  check.outcome = Outcome::fail;
  check.text = snapshot.vms[0].reasons[0].text;
  check.remedy = snapshot.vms[0].reasons[0].remedy;
  check_fits(render_checks({check}, Detail::all, kNarrow));

  const std::string label = snapshot.vms[0].name + " (pid 4194303)";
  check_fits(
      render_unattached({{label, snapshot.vms[0].name, 4'194'303, {check, check}}}, kNarrow));
  test::FakeRam ram({test::zeros(), test::noise(1), test::noise(1)});
  estimate::Census census(1000);  // a sample, with its errors
  for (int i = 0; i < 2; ++i) REQUIRE(census.add(label, ram, [](PageCount) {}));
  check_fits(
      render_estimate({{label, 4'194'303, {check}}, {label, 4'194'303, {}}}, census, kNarrow));

  const std::string path = "/srv/" + std::string(100, 'd');
  PolicyView policy{"/etc/ramfold.toml", {}};
  policy.keys.push_back({"runtime_dir", path, PolicyOrigin::file, PolicyTakes::at_start, "", path});
  policy.keys.push_back({"resident_floor", "50%", PolicyOrigin::set, PolicyTakes::at_once, "", ""});
  check_fits(render_policy(policy, kNarrow));
  CHECK(render_policy(policy, Style(false)).find("at the next start: " + path) !=
        std::string::npos);  // whole in a pipe
}

TEST_CASE("a long name is cut on a terminal, and whole for who reads it from a pipe") {
  const Snapshot snapshot = large_host();
  const std::string narrow = render_list(snapshot, kNarrow);
  INFO(narrow);
  CHECK(narrow.find(" instance-") != std::string::npos);
  CHECK(narrow.find("\n    1 " + snapshot.vms[0].name) == std::string::npos);
  CHECK(narrow.find("-1023 GiB") != std::string::npos);  // figures are never cut
  const std::string whole = render_list(snapshot, Style(false));
  CHECK(whole.find("    1 " + snapshot.vms[0].name + " 4194303 observe-only") != std::string::npos);
  CHECK(whole.find("in its second chapter (+1 more: `ramfold show " + snapshot.vms[0].name +
                   "`)\n") != std::string::npos);
}

TEST_CASE("a VM that failed is listed with all that is damaged, also while it saves memory") {
  FakeService service;
  Snapshot snapshot = service.snapshot();
  VmView& vm = snapshot.vms[0];
  REQUIRE(vm.saved.net_bytes > 0);
  vm.reasons = {{"agent-silent", "its agent does not answer", "wait"},
                {"lost_pages", "3 of its pages are lost", "restart the VM"},
                {"inconsistent", "its page state does not add up", "restart the VM"}};
  CHECK(render_list(snapshot, Style(false)).find("3 of its pages") == std::string::npos);
  vm.state = VmState::failed;
  const std::string list = render_list(snapshot, Style(false));
  INFO(list);
  CHECK(list.find("why: 3 of its pages are lost; restart the VM. its page state does not add up; "
                  "restart the VM (+1 more: `ramfold show web`)") != std::string::npos);
  ListOptions options;
  options.columns = parse_columns("name,state,why").value();
  CHECK(render_list(snapshot, Style(false), options).find("its page state does not add up") !=
        std::string::npos);
}

TEST_CASE("a VM that is only observed is listed with its why, also while it saves memory") {
  FakeService service;
  Snapshot snapshot = service.snapshot();
  VmView& vm = snapshot.vms[0];
  REQUIRE(vm.saved.net_bytes > 0);
  ListOptions options;
  options.columns = parse_columns("name,why").value();
  for (const VmState state : {VmState::observe_only, VmState::detached}) {
    vm.state = state;
    vm.reasons = {{"other_mapper", "process 77 (virtiofsd, of the user libvirt-qemu) maps its RAM",
                   "stop that process, or give the device an in-process back-end"},
                  {"held-up", "x", "y"}};
    const std::string list = render_list(snapshot, kNarrow);
    INFO(list);
    CHECK(list.find("\n    why: process 77 (virtiofsd") != std::string::npos);
    check_fits(list);
    CHECK(render_list(snapshot, Style(false)).find("(+1 more: `ramfold show web`)") !=
          std::string::npos);
    const std::string column = render_list(snapshot, Style(false), options);
    INFO(column);
    CHECK(column.find("web  process 77 (virtiofsd") != std::string::npos);
    check_fits(render_list(snapshot, kNarrow, options));
  }
  // Nothing is claimed that is not so.
  vm.state = VmState::observe_only;
  vm.reasons.clear();
  CHECK(render_list(snapshot, kNarrow).find("why: the daemon has not told yet; ask again\n") !=
        std::string::npos);
  vm.state = VmState::folding;
  CHECK(render_list(snapshot, Style(false), options).find("web  -") != std::string::npos);
}

TEST_CASE("columns that are asked for, raw and without headings, as zramctl has them") {
  FakeService service;
  const Snapshot snapshot = service.snapshot();
  ListOptions options;
  options.columns = parse_columns("name,PID,Saved").value();
  CHECK(render_list(snapshot, kNarrow, options) ==
        "NAME  PID   SAVED\nweb  4001 134 MiB\ndb   4002     0 B\nidle 4003     0 B\n");
  options.writing = {.raw = true, .headings = false};
  CHECK(render_list(snapshot, kNarrow, options) ==
        "web 4001 134\\x20MiB\ndb 4002 0\\x20B\nidle 4003 0\\x20B\n");
  options.bytes = true;
  CHECK(render_list(snapshot, kNarrow, options) == "web 4001 140000000\ndb 4002 0\nidle 4003 0\n");
  options.columns = all_columns();
  const auto all = lines(render_list(snapshot, kNarrow, options));
  REQUIRE(all.size() == 3);
  for (const std::string& line : all) {
    CHECK(std::count(line.begin(), line.end(), ' ') ==
          static_cast<std::ptrdiff_t>(all_columns().size()) - 1);
  }
  options.columns.clear();  // raw: no line of reasons between the rows
  CHECK(lines(render_list(snapshot, kNarrow, options)).size() == 3);
  CHECK(render_list({}, kNarrow, options).empty());
}

TEST_CASE("an unknown column is named, with what is close to it") {
  CHECK(parse_columns("ID,RESIDENTS").error() ==
        "unknown column 'RESIDENTS'; did you mean 'RESIDENT'?; `ramfold list --help` names them");
  CHECK_FALSE(parse_columns(""));
  CHECK_FALSE(parse_columns("ID,"));
}
