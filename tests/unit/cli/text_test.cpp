// SPDX-License-Identifier: GPL-2.0-or-later
#include "cli/text.hpp"

#include <catch2/catch.hpp>

#include "../control/fake_service.hpp"
#include "cli/list_view.hpp"
#include "cli/render.hpp"
#include "cli/table.hpp"

using namespace ramfold;
using namespace ramfold::cli;

namespace {
bool has(const std::string& text, std::string_view part) {
  return text.find(part) != std::string::npos;
}
const Style kPlain(false);
}  // namespace

TEST_CASE("figures keep three digits and their unit") {
  CHECK(human(ByteCount{0}) == "0 B");
  CHECK(human(ByteCount{1023}) == "1023 B");
  CHECK(human(ByteCount{4096}) == "4.0 KiB");
  CHECK(human(ByteCount{1536ull << 20}) == "1.5 GiB");
  CHECK(human(ByteCount{1048570}) == "1.0 MiB");
  CHECK(human(ByteCount{512ull << 20}) == "512 MiB");
  CHECK(human(ByteCount{~0ull}) == "16.0 EiB");
  CHECK(human_signed(-4096) == "-4.0 KiB");
  CHECK(human_signed(INT64_MIN) == "-8.0 EiB");
  CHECK(human_count(0) == "0");
  CHECK(human_count(999) == "999");
  CHECK(human_count(1234567) == "1,234,567");
  CHECK(human_duration_ns(850) == "850 ns");
  CHECK(human_duration_ns(14'000) == "14.0 us");
  CHECK(human_duration_ns(3'200'000) == "3.2 ms");
  CHECK(human_duration_ns(999'960) == "1.0 ms");
  CHECK(human_duration_s(1.5) == "1.5 s");
  CHECK(human_duration_s(119) == "119 s");
  CHECK(human_duration_s(12000) == "3 h 20 min");
  CHECK(human_duration_s(200000) == "2 d 7 h");
  CHECK(human_duration_s(-1) == "?");
  CHECK(human_share(0.0012) == "0.12 %");
}

TEST_CASE("names cannot carry terminal escapes") {
  control::VmView vm = control::fake_vm(1, "x\x1b]0;owned\x07\xe2\x80\xae", control::VmState::idle);
  vm.reasons = {{"c", "t\x1b[1m", "r\xc2\x9b[1m"}};
  control::Snapshot snapshot;
  snapshot.vms = {vm};
  for (const std::string& text : {render_vm(vm, kPlain), render_list(snapshot, kPlain)}) {
    CHECK_FALSE(has(text, "\x1b"));
    CHECK_FALSE(has(text, "\xc2\x9b"));
    CHECK_FALSE(has(text, "\xe2\x80\xae"));
  }
}

TEST_CASE("tables are aligned, also around names in other scripts") {
  Table table({{"NAME"}, {"SIZE", Align::right}, {"NOTE"}});
  table.row({{"caf\xc3\xa9"}, {"1.0 KiB"}, {"x"}});
  table.row({{"\xe6\x95\xb0\xe6\x8d\xae"}, {"2 B"}, {"wide"}});
  table.row({{"longer name"}, {"512 B"}, {""}});
  table.note("    why: because");
  CHECK(table.text(kPlain) ==
        "NAME           SIZE NOTE\n"
        "caf\xc3\xa9        1.0 KiB x\n"
        "\xe6\x95\xb0\xe6\x8d\xae            2 B wide\n"
        "longer name   512 B\n"
        "    why: because\n");
  CHECK(table.text(kPlain, {.raw = true, .headings = false})
            .starts_with("caf\\xc3\\xa9 1.0\\x20KiB x\n"));
}

TEST_CASE("colour only when asked for, and not part of the width") {
  CHECK(kPlain.paint(Colour::red, "x") == "x");
  CHECK(Style(true).paint(Colour::red, "x") == "\x1b[31mx\x1b[0m");
  CHECK(Style(true).paint(Colour::none, "x") == "x");
  CHECK(width_of(Style(true).paint(Colour::red, "four")) == 4);
  CHECK(width_of("\xe6\x95\xb0\xe6\x8d\xae") == 4);
  CHECK(width_of("\x1b[3") == 0);  // cut off
  Table table({{"A"}, {"B"}});
  table.row({{"x", Colour::green}, {"y"}});
  CHECK(has(table.text(Style(true)), "\x1b[32mx"));
  CHECK_FALSE(has(table.text(kPlain), "\x1b"));
}

TEST_CASE("text is broken between words, and what is too long stays whole") {
  CHECK(wrap("one two three", 0, 0, 0) == "one two three");
  CHECK(wrap("one two three", 8, 0, 2) == "one two\n  three");
  CHECK(wrap("one two three", 8, 5, 5) == "one\n     two\n     three");
  CHECK(wrap("averylongword x", 5, 0, 1) == "averylongword\n x");
  CHECK(wrap("", 8, 0, 0).empty());
  CHECK(wrap(Style(true).paint(Colour::red, "ab cd"), 5, 0, 0) == "\x1b[31mab cd\x1b[0m");
}

TEST_CASE("list says why a VM saves nothing, and where the other reasons are") {
  control::FakeService service;
  const std::string text = render_list(service.snapshot(), kPlain);
  INFO(text);
  CHECK(has(text, "db"));
  CHECK(has(text, "    why: the VM's RAM is locked in memory"));
  CHECK(has(text,
            "start QEMU without -overcommit mem-lock=on (libvirt: no <locked/>) (+1 more: `ramfold "
            "show db`)"));
  CHECK(has(text, "    why: memory plentiful\n"));
  CHECK(has(render_list({}, kPlain), "ramfold exec"));
  service.change([](control::Snapshot& s) {
    s.vms[0].saved.net_bytes = -1;
    s.vms[2].reasons.clear();
  });
  const std::string young = render_list(service.snapshot(), kPlain);
  CHECK(has(young,
            "why: 136 MiB saved so far is less than its share of the memory that ramfold uses"));
  CHECK(has(young, "why: no cold page was found yet"));
}

TEST_CASE("show tells what a VM makes ramfold keep, of which kinds, and its limit") {
  control::FakeService service;
  service.change([](control::Snapshot& s) {
    s.vms[0].kept = {.page_table = ByteCount{3u << 20},
                     .discard_bitmap = ByteCount{1u << 20},
                     .notes = ByteCount{2u << 20},
                     .stored = ByteCount{58u << 20},
                     .limit = ByteCount{300u << 20},
                     .names = 7};
  });
  const std::string text = render_vm(service.snapshot().vms[0], kPlain);
  INFO(text);
  CHECK(has(text, "64.0 MiB of at most 300 MiB: stored 58.0 MiB, page table 3.0 MiB, bitmap 1.0"));
  CHECK(has(text, "notes 2.0 MiB; 7 descriptors"));
}

TEST_CASE("status shows savings, spending and the promise") {
  control::FakeService service;
  const std::string text = render_status(service.snapshot(), kPlain);
  INFO(text);
  CHECK(has(text, "ramfold 0.1.0 on Linux 6.18.0: folding\n"));
  CHECK(has(text, "3 attached, 1 of them observe-only"));
  CHECK(has(text, "1 of 1 kernel facts hold\n"));
  CHECK(has(text, "told by forget\n"));
  CHECK(has(text, "shared     20,000 78.1 MiB"));
  CHECK(has(text, "net        38,000  134 MiB"));
  CHECK(has(text, ": kept\n"));
  service.change([](control::Snapshot& s) {
    s.host.keeper.state = control::KeeperState::absent;
    s.host.promise.available = {};
    s.host.self_test[0].outcome = control::CheckOutcome::failed;
    s.host.self_test[0].remedy = "boot another kernel";
    s.host.self_test.push_back({"pin-swapped", control::CheckOutcome::skipped, "no swap", ""});
  });
  const std::string bad = render_status(service.snapshot(), Style(true));
  CHECK(has(bad, "0 of 1 kernel facts hold, 1 could not be tried"));
  CHECK(has(bad, "NOT KEPT"));
  CHECK(has(bad, "nothing is folded without it"));
  CHECK(has(bad, "boot another kernel"));
}

TEST_CASE("show tells everything about one VM") {
  control::FakeService service;
  const std::string text = render_vm(service.snapshot().vms[0], kPlain);
  INFO(text);
  CHECK(has(text, "VM web (1): folding"));
  CHECK(has(text, "512 MiB, touched 234 MiB, resident 85.9 MiB"));
  CHECK(has(text, "9,000 observed, 500 clean, 38,000 folded"));
  CHECK(has(text, "10.0 MiB of at most 512 MiB: stored 9.0 MiB, page table 1.0 MiB"));
  CHECK(has(text, "zero         120  9.0 us 21.0 us 80.0 us"));
  CHECK(has(text, "pc.ram"));
  CHECK_FALSE(has(text, "held by a device"));
  control::VmView other = service.snapshot().vms[0];
  other.pages.poisoned = PageCount{1};
  other.pages.held = PageCount{1234};
  CHECK(has(render_vm(other, kPlain), "1 pages cannot be read back"));
  CHECK(has(render_vm(other, kPlain), "1,234 pages are held by a device"));
}
