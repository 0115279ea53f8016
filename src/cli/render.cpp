// SPDX-License-Identifier: GPL-2.0-or-later
#include "cli/render.hpp"

#include <fmt/core.h>

#include <algorithm>

#include "cli/table.hpp"
#include "control/names.hpp"
#include "control/view_fields.hpp"

namespace ramfold::cli {
namespace {

using namespace ramfold::control;

Colour colour_of(HostState state) {
  switch (state) {
    case HostState::folding:
    case HostState::idle: return Colour::green;
    case HostState::observe_only: return Colour::red;
    default: return Colour::yellow;
  }
}

constexpr std::size_t kLabel = 10;  // columns

std::string line_of(std::string_view label, std::string_view text, const Style& style) {
  return fmt::format("{:<{}}{}\n", label, kLabel, wrap(text, style.width(), kLabel, kLabel));
}

std::string notices_of(const std::vector<Reason>& notices, const Style& style) {
  std::string text;
  for (const Reason& notice : notices) text += line_of("note", reason_line(notice, style), style);
  return text;
}

std::string reasons_of(const std::vector<Reason>& reasons, const Style& style) {
  std::string text;
  for (const Reason& reason : reasons) text += line_of("why", reason_line(reason, style), style);
  return text;
}

std::string self_test_of(const HostView& host, const Style& style) {
  const auto count = [&](CheckOutcome outcome) {
    return std::count_if(host.self_test.begin(), host.self_test.end(),
                         [&](const SelfTestView& test) { return test.outcome == outcome; });
  };
  if (host.self_test.empty()) return line_of("self-test", "not run", style);
  const auto skipped = count(CheckOutcome::skipped);
  std::string verdict = fmt::format("{} of {} kernel facts hold", count(CheckOutcome::passed),
                                    std::ssize(host.self_test) - skipped);
  if (skipped != 0) verdict += fmt::format(", {} could not be tried", skipped);
  std::string text = line_of("self-test", verdict, style);
  for (const SelfTestView& test : host.self_test) {
    if (test.outcome != CheckOutcome::failed) continue;
    text += line_of("",
                    style.paint(Colour::red, "failed ") + printable(test.name) + ": " +
                        printable(test.detail) +
                        (test.remedy.empty() ? "" : "; " + printable(test.remedy)),
                    style);
  }
  return text;
}

std::string keeper_of(const KeeperView& keeper, const Style& style) {
  if (keeper.state == KeeperState::absent) {
    const std::string how = keeper.detail.empty() ? "absent" : printable(keeper.detail);
    return line_of("keeper", style.paint(Colour::red, how + ": nothing is folded without it"),
                   style);
  }
  return line_of(
      "keeper",
      fmt::format("{}, {} descriptors", name_of(keeper.state), human_count(keeper.descriptors)),
      style);
}

std::string savings_of(const Savings& saved, const Style& style) {
  Table table({{"saved"}, {"pages", Align::right}, {"memory", Align::right}});
  const auto row = [&](const char* name, const Mechanism& mechanism) {
    table.row({{name}, {human_count(mechanism.pages.value)}, {human(mechanism.saved)}});
  };
  row("  zero", saved.zero);
  row("  shared", saved.shared);
  row("  compressed", saved.compressed);
  const auto overhead = static_cast<std::int64_t>(saved.gross().value) - saved.net_bytes;
  table.row({{"  spent"}, {""}, {human_signed(-overhead)}});
  table.row({{"  net", Colour::bold},
             {human_count(saved.folded_pages().value)},
             {human_signed(saved.net_bytes), saved.net_bytes > 0 ? Colour::green : Colour::none}});
  return table.text(style);
}

// One table row per amount; its label is the sentence of its Metric.
class AmountRows {
 public:
  explicit AmountRows(Table& table) : table_(table) {}
  void operator()(const Metric& metric, ByteCount bytes) {
    table_.row(
        {{"  " + std::string(metric.help.substr(0, metric.help.rfind('.')))}, {human(bytes)}});
  }
  template <typename F>
  void derived(const Metric&, const F&) {}

 private:
  Table& table_;
};

std::string spent_of(const Spent& spent, const Style& style) {
  Table table({{"spent", Align::left, Cut::when_narrow}, {"memory", Align::right}});
  AmountRows rows(table);
  visit(rows, spent);
  return table.text(style);
}

std::string seconds_or_never(double seconds) {
  constexpr double kNever = 365.0 * 24 * 3600;
  return seconds <= 0 || seconds > kNever ? "-" : human_duration_s(seconds);
}

std::string forms_of(const ReformView& reform, const Style& style) {
  Table table({{"stored as"},
               {"contents", Align::right},
               {"memory", Align::right},
               {"mean B", Align::right},
               {"decode", Align::right},
               {"by columns", Align::right}});
  Table next({{"next form tried after"},
              {"patch", Align::right},
              {"zstd", Align::right},
              {"densest", Align::right},
              {"mixed", Align::right}});
  for (const FormView& form : reform.forms) {
    const std::string name = "  " + printable(form.form);
    const double mean = form.contents == 0 ? 0
                                           : static_cast<double>(form.stored.value) /
                                                 static_cast<double>(form.contents);
    table.row({{name},
               {human_count(form.contents)},
               {human(form.stored)},
               {fmt::format("{:.0f}", mean)},
               {human_duration_ns(static_cast<std::uint64_t>(form.decode_ns))},
               {form.decode_columns_ns > 0
                    ? human_duration_ns(static_cast<std::uint64_t>(form.decode_columns_ns))
                    : "-"}});
    next.row({{name},
              {seconds_or_never(form.patch_after_s)},
              {seconds_or_never(form.dense_after_s)},
              {seconds_or_never(form.densest_after_s)},
              {seconds_or_never(form.mixed_after_s)}});
  }
  return table.text(style) + "\n" + next.text(style);
}

std::string reform_of(const ReformView& reform, const Style& style) {
  if (!reform.active()) {
    return line_of("reform", "off: stored contents keep their forms", style);
  }
  return line_of("reform",
                 fmt::format("a GiB kept free for an hour is worth {:.0f} s of CPU; {} attempts, "
                             "{} contents moved, {} rewritten",
                             reform.cpu_s_per_gib_hour, human_count(reform.attempts),
                             human_count(reform.moved), human_count(reform.rewritten)),
                 style);
}

std::string promise_of(const Promise& promise, const Style& style) {
  const std::string text = fmt::format("{} needed if every folded page came back, {} can be used: ",
                                       human(promise.needed_if_all_back), human(promise.limit()));
  return line_of("promise",
                 text + (promise.kept() ? style.paint(Colour::green, "kept")
                                        : style.paint(Colour::red, "NOT KEPT")),
                 style);
}

std::string gate_of(const VmView& vm, const Style& style) {
  const std::string name(name_of(vm.gate));
  return vm.gate == GateState::closed ? style.paint(Colour::yellow, name) : name;
}

std::string faults_of(const VmView& vm, const Style& style) {
  if (vm.faults.empty()) return {};
  Table table({{"faults"},
               {"count", Align::right},
               {"p50", Align::right},
               {"p99", Align::right},
               {"max", Align::right}});
  for (const FaultKindView& kind : vm.faults) {
    const auto shown = [&](std::uint64_t ns) {
      return kind.count == 0 ? std::string("-") : human_duration_ns(ns);
    };
    table.row({{"  " + printable(kind.kind)},
               {human_count(kind.count)},
               {shown(kind.p50_ns)},
               {shown(kind.p99_ns)},
               {shown(kind.max_ns)}});
  }
  return "\n" + table.text(style);
}

std::string blocks_of(const VmView& vm, const Style& style) {
  if (vm.blocks.empty()) return {};
  Table table({{"RAM blocks", Align::left, Cut::when_narrow},
               {"size", Align::right},
               {"address", Align::right},
               {"file offset", Align::right},
               {"inode", Align::right}});
  for (const RamBlockView& block : vm.blocks) {
    table.row({{"  " + (block.name.empty() ? "-" : printable(block.name))},
               {human(block.size)},
               {fmt::format("{:#x}", block.address.value)},
               {fmt::format("{:#x}", block.file_offset.value)},
               {std::to_string(block.inode)}});
  }
  return "\n" + table.text(style);
}

}  // namespace

Colour colour_of(VmState state) {
  switch (state) {
    case VmState::folding:
    case VmState::idle: return Colour::green;
    case VmState::failed: return Colour::red;
    default: return Colour::yellow;
  }
}

std::string reason_line(const Reason& reason, const Style& style) {
  std::string text = printable(reason.text);
  if (!reason.remedy.empty()) text += style.paint(Colour::dim, "; ") + printable(reason.remedy);
  return text;
}

std::string render_status(const Snapshot& snapshot, const Style& style) {
  const HostView& host = snapshot.host;
  const std::string head =
      fmt::format("ramfold {} on Linux {}: {}", printable(host.version), printable(host.kernel),
                  style.paint(colour_of(host.state), name_of(host.state)));
  std::string out = wrap(head, style.width(), 0, 4) + "\n";
  out += reasons_of(host.reasons, style);
  out += notices_of(host.notices, style);
  out += line_of("memory",
                 fmt::format("{}, {} available; to be kept available: {}", human(host.ram_total),
                             human(host.ram_available), human(host.keep_available)),
                 style);
  out += line_of(
      "VMs",
      fmt::format("{} attached, {} of them observe-only", host.vms_attached, host.vms_observe_only),
      style);
  out += keeper_of(host.keeper, style);
  out += self_test_of(host, style);
  if (!host.referenced.empty()) {
    const bool off = host.referenced == "off";
    out += line_of("touches", off ? "nobody is asked" : "told by " + printable(host.referenced),
                   style);
  }
  out += line_of(
      "uptime",
      fmt::format("{}, {} restarts", human_duration_s(host.uptime_seconds), host.restarts), style);
  out += line_of("CPU",
                 fmt::format("scan {:.1f} s, fold {:.1f} s, faults {:.1f} s, reform {:.1f} s",
                             host.cpu.scan_seconds, host.cpu.fold_seconds, host.cpu.fault_seconds,
                             host.cpu.reform_seconds),
                 style);
  out += reform_of(host.reform, style);
  out += promise_of(host.promise, style);
  out += line_of("contents", human_count(host.contents), style);
  return out + "\n" + savings_of(host.saved, style) + "\n" + spent_of(host.spent, style) + "\n" +
         forms_of(host.reform, style);
}

std::string render_vm(const VmView& vm, const Style& style) {
  const std::string head =
      fmt::format("VM {} ({}): {}", vm.name.empty() ? "-" : printable(vm.name), vm.id.value,
                  style.paint(colour_of(vm.state), name_of(vm.state)));
  std::string out = wrap(head, style.width(), 0, 4) + "\n";
  out += reasons_of(vm.reasons, style);
  out += notices_of(vm.notices, style);
  out += line_of("process",
                 fmt::format("pid {}, uid {}, uuid {}", vm.pid, vm.uid,
                             vm.uuid.empty() ? "-" : printable(vm.uuid)),
                 style);
  out += line_of("group", printable(vm.group), style);
  out += line_of("gate", gate_of(vm, style), style);
  out += line_of("RAM",
                 fmt::format("{}, touched {}, resident {}", human(bytes(vm.pages.total)),
                             human(bytes(vm.pages.touched)), human(bytes(vm.pages.resident))),
                 style);
  out += line_of(
      "pages",
      fmt::format("{} observed, {} clean, {} folded", human_count(vm.pages.observed.value),
                  human_count(vm.pages.clean.value), human_count(vm.saved.folded_pages().value)),
      style);
  if (vm.pages.mapped > PageCount{0}) {
    out += line_of("mapped",
                   fmt::format("{} of the folded pages can be read without a fault",
                               human_count(vm.pages.mapped.value)),
                   style);
  }
  if (vm.pages.held > PageCount{0}) {
    out += line_of("held",
                   fmt::format("{} pages are held by a device", human_count(vm.pages.held.value)),
                   style);
  }
  out += line_of(
      "kept",
      fmt::format("{} of at most {}: stored {}, page table {}, bitmap {}, notes {}; {} descriptors",
                  human(vm.kept.total()), human(vm.kept.limit), human(vm.kept.stored),
                  human(vm.kept.page_table), human(vm.kept.discard_bitmap), human(vm.kept.notes),
                  vm.kept.names),
      style);
  if (vm.pages.poisoned > PageCount{0}) {
    out += line_of("POISONED",
                   style.paint(Colour::red, fmt::format("{} pages cannot be read back",
                                                        vm.pages.poisoned.value)),
                   style);
  }
  out += line_of("scan",
                 fmt::format("{} passes, the last took {}", human_count(vm.passes),
                             human_duration_s(vm.pass_seconds)),
                 style);
  out += line_of("back-off",
                 fmt::format("{} pages wait longer, {} came back soon",
                             human_count(vm.backoff.held.value), human_count(vm.backoff.returns)),
                 style);
  out += line_of(
      "stall",
      fmt::format("{} of wall time; {} fault events, {} errors", human_share(vm.stall_share),
                  human_count(vm.fault_events), human_count(vm.fault_errors)),
      style);
  out += reform_of(vm.reform, style);
  return out + "\n" + savings_of(vm.saved, style) + faults_of(vm, style) + "\n" +
         forms_of(vm.reform, style) + blocks_of(vm, style);
}

std::string render_counters(const std::vector<CounterView>& counters, const Style& style) {
  Table table({{"COUNTER"}, {"VALUE", Align::right}});
  for (const CounterView& one : counters) {
    table.row({{printable(one.name)}, {std::to_string(one.value)}});
  }
  return table.text(style);
}

std::string render_plan(const UnfoldPlan& plan, std::string_view what, const Style& style) {
  const std::string text = fmt::format("{}: {} pages come back; {} needed, {} available, about {}",
                                       what, human_count(plan.pages.value), human(plan.needed),
                                       human(plan.available), human_duration_s(plan.seconds));
  return wrap(text, style.width(), 0, 4) + "\n";
}

std::string render_progress(const UnfoldProgress& progress) {
  const double share = progress.total.value == 0 ? 1.0
                                                 : static_cast<double>(progress.done.value) /
                                                       static_cast<double>(progress.total.value);
  return fmt::format("{:3.0f} %  {} of {} pages, about {} left", share * 100,
                     human_count(progress.done.value), human_count(progress.total.value),
                     human_duration_s(progress.seconds_left));
}

std::string render_error(const OperationError& error, const Style& style) {
  const auto line = [&](std::string_view text) { return wrap(text, style.width(), 0, 4) + "\n"; };
  std::string text = line(style.paint(Colour::red, "ramfold: ") + printable(error.text));
  if (error.missing > ByteCount{0}) text += "  missing: " + human(error.missing) + "\n";
  if (!error.remedy.empty()) text += line("  remedy: " + printable(error.remedy));
  return text;
}

}  // namespace ramfold::cli
