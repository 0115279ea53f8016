// SPDX-License-Identifier: GPL-2.0-or-later
#include "cli/list_view.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <array>

#include "cli/render.hpp"
#include "cli/suggest.hpp"
#include "control/names.hpp"

namespace ramfold::cli {
namespace {

using namespace ramfold::control;

bool saves(const VmView& vm) { return vm.saved.net_bytes > 0; }

// What it saved before does not hide why it is not folded any more.
bool needs_why(const VmView& vm) {
  return !saves(vm) || vm.state == VmState::observe_only || vm.state == VmState::detached ||
         vm.state == VmState::failed;
}

// Of a VM that failed all that is damaged, of any other the first reason.
std::vector<Reason> told_in_list(const VmView& vm) {
  std::vector<Reason> told;
  for (const Reason& reason : vm.reasons) {
    if (vm.state != VmState::failed) break;
    if (reason.code == "lost_pages" || reason.code == "inconsistent") told.push_back(reason);
  }
  if (told.empty() && !vm.reasons.empty()) told.push_back(vm.reasons.front());
  return told;
}

std::string why_of(const VmView& vm, const Style& style) {
  std::string text;
  for (const Reason& reason : told_in_list(vm)) {
    if (!text.empty()) text += ". ";
    text += reason_line(reason, style);
  }
  if (!text.empty()) return text;
  if (vm.state == VmState::observe_only) return "the daemon has not told yet; ask again";
  return vm.saved.folded_pages() > PageCount{0}
             ? fmt::format("{} saved so far is less than its share of the memory that ramfold uses",
                           human(vm.saved.gross()))
             : "no cold page was found yet";
}

std::string or_dash(std::string_view text) { return text.empty() ? "-" : printable(text); }

struct Amounts {
  bool bytes;
  std::string of(ByteCount amount) const {
    return bytes ? std::to_string(amount.value) : human(amount);
  }
  std::string of(PageCount pages) const { return of(ramfold::bytes(pages)); }
};

struct Field {
  std::string_view name;
  std::string_view help;
  Align align;
  Cut cut;
  bool usual;
  Table::Cell (*cell)(const VmView& vm, Amounts amounts);
};

constexpr std::array kFields{
    Field{"ID", "the VM's number", Align::right, Cut::never, true,
          [](const VmView& vm, Amounts) -> Table::Cell { return {std::to_string(vm.id.value)}; }},
    Field{"NAME", "its name (-name)", Align::left, Cut::when_narrow, true,
          [](const VmView& vm, Amounts) -> Table::Cell { return {or_dash(vm.name)}; }},
    Field{"PID", "QEMU's process id", Align::right, Cut::never, true,
          [](const VmView& vm, Amounts) -> Table::Cell { return {std::to_string(vm.pid)}; }},
    Field{"UID", "QEMU's user id", Align::right, Cut::never, false,
          [](const VmView& vm, Amounts) -> Table::Cell { return {std::to_string(vm.uid)}; }},
    Field{"UUID", "its uuid (-uuid)", Align::left, Cut::never, false,
          [](const VmView& vm, Amounts) -> Table::Cell { return {or_dash(vm.uuid)}; }},
    Field{"GROUP", "its trust group", Align::left, Cut::when_narrow, false,
          [](const VmView& vm, Amounts) -> Table::Cell { return {or_dash(vm.group)}; }},
    Field{"STATE", "what is done with it", Align::left, Cut::never, true,
          [](const VmView& vm, Amounts) -> Table::Cell {
            return {std::string(name_of(vm.state)), colour_of(vm.state)};
          }},
    Field{"GATE", "whether pages may leave", Align::left, Cut::never, false,
          [](const VmView& vm, Amounts) -> Table::Cell { return {std::string(name_of(vm.gate))}; }},
    Field{"RAM", "its size", Align::right, Cut::never, true,
          [](const VmView& vm, Amounts amounts) -> Table::Cell {
            return {amounts.of(vm.pages.total)};
          }},
    Field{"TOUCHED", "resident now, or folded", Align::right, Cut::never, false,
          [](const VmView& vm, Amounts amounts) -> Table::Cell {
            return {amounts.of(vm.pages.touched)};
          }},
    Field{"RESIDENT", "in memory now", Align::right, Cut::never, true,
          [](const VmView& vm, Amounts amounts) -> Table::Cell {
            return {amounts.of(vm.pages.resident)};
          }},
    Field{"HELD", "held by a device", Align::right, Cut::never, false,
          [](const VmView& vm, Amounts amounts) -> Table::Cell {
            return {amounts.of(vm.pages.held)};
          }},
    Field{"ZERO", "saved by pages of zeros", Align::right, Cut::never, false,
          [](const VmView& vm, Amounts amounts) -> Table::Cell {
            return {amounts.of(vm.saved.zero.saved)};
          }},
    Field{"SHARED", "saved by equal pages", Align::right, Cut::never, false,
          [](const VmView& vm, Amounts amounts) -> Table::Cell {
            return {amounts.of(vm.saved.shared.saved)};
          }},
    Field{"COMPRESSED", "saved by compressing", Align::right, Cut::never, false,
          [](const VmView& vm, Amounts amounts) -> Table::Cell {
            return {amounts.of(vm.saved.compressed.saved)};
          }},
    Field{"SAVED", "net of what ramfold spends for it", Align::right, Cut::never, true,
          [](const VmView& vm, Amounts amounts) -> Table::Cell {
            return {amounts.bytes ? std::to_string(vm.saved.net_bytes)
                                  : human_signed(vm.saved.net_bytes),
                    saves(vm) ? Colour::green : Colour::none};
          }},
    Field{"STALL", "share of wall time that it waited for ramfold", Align::right, Cut::never, true,
          [](const VmView& vm, Amounts) -> Table::Cell { return {human_share(vm.stall_share)}; }},
    Field{"WHY", "why it is not folded, or saves nothing; what is damaged", Align::left,
          Cut::when_narrow, false,
          [](const VmView& vm, Amounts) -> Table::Cell {
            return {needs_why(vm) ? why_of(vm, Style(false)) : "-"};
          }},
};

const Field* field_of(std::string_view name) {
  const auto same = [](char a, char b) {
    return (a >= 'a' && a <= 'z' ? a - ('a' - 'A') : a) == b;
  };
  const auto* const found = std::ranges::find_if(
      kFields, [&](const Field& field) { return std::ranges::equal(name, field.name, same); });
  return found == kFields.end() ? nullptr : found;
}

std::string note_of(const VmView& vm, const Style& style) {
  std::string text = "why: " + why_of(vm, style);
  const std::size_t told = told_in_list(vm).size();
  if (vm.reasons.size() > told) {
    text += fmt::format(" (+{} more: `ramfold show {}`)", vm.reasons.size() - told,
                        vm.name.empty() ? std::to_string(vm.id.value) : printable(vm.name));
  }
  constexpr std::size_t kIndent = 4;
  return std::string(kIndent, ' ') + wrap(text, style.width(), kIndent, kIndent + 2);
}

}  // namespace

std::expected<std::vector<std::string>, std::string> parse_columns(std::string_view list) {
  std::vector<std::string> columns;
  while (true) {
    const std::size_t comma = std::min(list.find(','), list.size());
    const std::string_view name = list.substr(0, comma);
    const Field* field = field_of(name);
    if (field == nullptr) {
      return std::unexpected("unknown column '" + printable(name) + "'" +
                             did_you_mean(name, all_columns()) +
                             "; `ramfold list --help` names them");
    }
    columns.emplace_back(field->name);
    if (comma == list.size()) return columns;
    list.remove_prefix(comma + 1);
  }
}

std::vector<std::string> all_columns() {
  std::vector<std::string> names;
  names.reserve(kFields.size());
  for (const Field& field : kFields) names.emplace_back(field.name);
  return names;
}

std::string describe_columns() {
  std::string text = "Columns (* the usual ones):\n";
  for (const Field& field : kFields) {
    text += fmt::format("{:>14}{} {}\n", field.name, field.usual ? '*' : ' ', field.help);
  }
  return text;
}

std::string render_list(const Snapshot& snapshot, const Style& style, const ListOptions& options) {
  const bool for_people = options.for_people();
  if (snapshot.vms.empty() && for_people) {
    return wrap(
               "No VM has connected. Start QEMU with the agent: "
               "`ramfold exec -- qemu-system-x86_64 ...` (`ramfold doctor` looks at those that "
               "run)",
               style.width(), 0, 0) +
           "\n";
  }
  std::vector<const Field*> fields;
  fields.reserve(kFields.size() + options.columns.size());
  for (const std::string& name : options.columns) fields.push_back(field_of(name));
  for (const Field& field : kFields) {
    if (options.columns.empty() && field.usual) fields.push_back(&field);
  }
  std::vector<Column> columns;
  columns.reserve(fields.size());
  for (const Field* field : fields) {
    columns.push_back({std::string(field->name), field->align, field->cut});
  }
  Table table(std::move(columns));
  for (const VmView& vm : snapshot.vms) {
    std::vector<Table::Cell> cells;
    cells.reserve(fields.size());
    for (const Field* field : fields) cells.push_back(field->cell(vm, {options.bytes}));
    table.row(std::move(cells));
    if (for_people && needs_why(vm)) table.note(note_of(vm, style));
  }
  return table.text(style, options.writing);
}

}  // namespace ramfold::cli
