// SPDX-License-Identifier: GPL-2.0-or-later
// What `ramfold estimate` found, as text and as JSON.
#include <fmt/core.h>

#include <nlohmann/json.hpp>

#include "cli/estimate.hpp"
#include "cli/table.hpp"
#include "control/view_json.hpp"

namespace ramfold::cli {
namespace {

using estimate::Census;
using estimate::Figures;
using estimate::Mechanism;
using estimate::Saved;
using estimate::Savings;
using estimate::VmCensus;
using Json = nlohmann::json;

// One decimal below 1000 and none above, so that a row fits into 80 columns.
std::string mib(double bytes) {
  const double value = bytes / (1 << 20);
  return fmt::format("{:.{}f}", value, value < 999.95 ? 1 : 0);
}
double bytes_of(PageCount pages) { return static_cast<double>(bytes(pages).value); }

const Saved& at(const Savings& savings, Mechanism mechanism) {
  return savings[static_cast<std::size_t>(mechanism)];
}

std::vector<Table::Cell> row_of(const std::string& label, double touched, const Savings& savings) {
  std::vector<Table::Cell> cells{{printable(label)}, {mib(touched)}};
  for (const Mechanism mechanism : estimate::kMechanisms) {
    cells.push_back({mib(at(savings, mechanism).bytes)});
  }
  const Saved& best = at(savings, Mechanism::best);
  cells.push_back({touched > 0 ? fmt::format("{:.0f} %", 100 * best.bytes / touched) : ""});
  return cells;
}

// Adds a row with the possible errors of the row above; none when all RAM was looked at.
void add_errors(Table& table, const Savings& savings) {
  std::vector<Table::Cell> cells{{"  +-", Colour::dim}, {""}};
  bool any = false;
  for (const Mechanism mechanism : estimate::kMechanisms) {
    const Saved& saved = at(savings, mechanism);
    any |= saved.plus_minus > 0;
    cells.push_back({saved.plus_minus > 0 ? mib(saved.plus_minus) : "", Colour::dim});
  }
  cells.push_back({""});
  if (any) table.row(std::move(cells));
}

Table table_of(const std::vector<Estimated>& what, const Census& census, const Figures& figures) {
  std::vector<Column> columns{{"MiB saved of", Align::left, Cut::when_narrow}};
  for (const char* title : {"touched", "zero", "equal", "similar", "lz4", "zstd", "all", ""}) {
    columns.push_back({title, Align::right});
  }
  Table table(std::move(columns));
  double touched = 0;
  for (std::size_t i = 0; i < what.size(); ++i) {
    const double of_vm = bytes_of(census.vms()[i].touched);
    touched += of_vm;
    table.row(row_of(what[i].label, of_vm, figures.vms[i].alone));
    add_errors(table, figures.vms[i].alone);
  }
  if (what.size() > 1) {
    table.row(row_of("each alone", touched, figures.together.alone));
    add_errors(table, figures.together.alone);
    table.row(row_of("sharing pages", touched, figures.together.across));
    add_errors(table, figures.together.across);
  }
  return table;
}

// One line for each kind of pages that was not looked at.
std::string left_out(const Estimated& what, const VmCensus& vm, std::size_t width) {
  std::string out;
  const auto line = [&](PageCount pages, const char* why) {
    if (pages.value == 0) return;
    out += wrap(printable(what.label) + ": " + human(bytes(pages)) + " " + why, width, 0, 2) + "\n";
  };
  line(vm.left_out.swapped, "are paged out by the host and were left there");
  line(vm.left_out.moved, "went away while they were read");
  line(vm.left_out.merged, "are merged by KSM already: their equals are no new saving");
  return out;
}

std::string changes(const std::vector<Estimated>& what, const Style& style) {
  std::string out;
  for (const Estimated& one : what) {
    if (!one.pid) continue;
    const std::string title = wrap(printable(one.label) + ": what to change", style.width(), 0, 2);
    out += "\n" + style.paint(Colour::bold, title) + "\n";
    bool nothing = true;
    for (const Check& check : one.checks) {
      if (check.outcome != Outcome::fail) continue;
      nothing = false;
      out += "  " + wrap(printable(check.text), style.width(), 2, 2) + "\n    " +
             wrap("remedy: " + printable(check.remedy), style.width(), 4, 4) + "\n";
    }
    if (nothing) out += "  nothing, as far as can be seen from outside\n";
  }
  return out;
}

Json json_of(const Savings& savings) {
  Json json;
  for (const Mechanism mechanism : estimate::kMechanisms) {
    const Saved& saved = at(savings, mechanism);
    json[std::string(name_of(mechanism))] = {{"saved_bytes", std::llround(saved.bytes)},
                                             {"plus_minus_bytes", std::llround(saved.plus_minus)}};
  }
  return json;
}

Json json_of(const Estimated& what, const VmCensus& vm, const estimate::VmFigures& figures) {
  Json json{{"name", what.label},
            {"size_bytes", bytes(vm.size).value},
            {"touched_bytes", bytes(vm.touched).value},
            {"sampled_bytes", bytes(vm.sampled).value},
            {"swapped_bytes", bytes(vm.left_out.swapped).value},
            {"moved_bytes", bytes(vm.left_out.moved).value},
            {"merged_bytes", bytes(vm.left_out.merged).value},
            {"alone", json_of(figures.alone)},
            {"across", json_of(figures.across)}};
  if (!what.pid) return json;
  json["pid"] = *what.pid;
  json["changes"] = Json::array();
  for (const Check& check : what.checks) {
    if (check.outcome != Outcome::fail) continue;
    json["changes"].push_back(
        {{"id", std::string(check.id)}, {"text", check.text}, {"remedy", check.remedy}});
  }
  return json;
}

}  // namespace

std::string render_estimate(const std::vector<Estimated>& what, const Census& census,
                            const Style& style) {
  std::string out = table_of(what, census, figures_of(census)).text(style);
  if (census.one_of() > 1) {
    out +=
        wrap(fmt::format("One of {} clusters of pages was looked at closely. In 19 cases of 20 "
                         "the true figures lie within +-. A sample finds fewer similar pages than "
                         "there are.",
                         census.one_of()),
             style.width(), 0, 0) +
        "\n";
  }
  for (std::size_t i = 0; i < what.size(); ++i)
    out += left_out(what[i], census.vms()[i], style.width());
  if (what.size() > 1) {
    out += wrap(
               "VMs share pages only within a trust group: `groups.default` and [[vm]] in "
               "ramfold.toml.",
               style.width(), 0, 0) +
           "\n";
  }
  return out + changes(what, style);
}

std::string json_of(const std::vector<Estimated>& what, const Census& census) {
  const Figures figures = figures_of(census);
  Json vms = Json::array();
  for (std::size_t i = 0; i < what.size(); ++i) {
    vms.push_back(json_of(what[i], census.vms()[i], figures.vms[i]));
  }
  const Json together{{"alone", json_of(figures.together.alone)},
                      {"across", json_of(figures.together.across)}};
  return control::text_of({{"estimate",
                            {{"sampled_one_of", census.one_of()},
                             {"vms", std::move(vms)},
                             {"together", together}}}},
                          2) +
         "\n";
}

}  // namespace ramfold::cli
