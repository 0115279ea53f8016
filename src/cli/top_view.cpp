// SPDX-License-Identifier: GPL-2.0-or-later
#include "cli/top_view.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>

#include "cli/text.hpp"
#include "control/names.hpp"

namespace ramfold::cli {
namespace {

constexpr std::size_t kLinesAbove = 3;  // summary, notice, heading
constexpr std::size_t kNameMin = 8;
constexpr std::size_t kNameUsual = 20;  // where nothing bounds the width

struct Shape {
  std::string_view title;
  std::size_t width;
  bool right;
  char key;
};
// In the order of TopColumn.
constexpr std::array<Shape, kTopColumns> kShapes{
    Shape{"ID", 5, true, 'I'},    {"NAME", kNameUsual, false, 'A'}, {"STATE", 12, false, 0},
    {"RESIDENT", 9, true, 'M'},   {"FOLDED", 9, true, 'F'},         {"STALL", 8, true, 'S'},
    {"REFAULT/s", 10, true, 'T'}, {"NET SAVED", 10, true, 'N'}};
constexpr std::size_t at(TopColumn column) { return static_cast<std::size_t>(column); }

// Columns that are left out where the screen is narrow, in this order.
constexpr std::array kLeftOut{TopColumn::state, TopColumn::id, TopColumn::refaults,
                              TopColumn::resident, TopColumn::folded};

constexpr std::string_view kKeys =
    "q quit  < > sort column  R reverse  space now  up/down scroll  h help";
constexpr std::string_view kHelp =
    "sort by: N net saved  S stall  T refaults  M resident  F folded  A name  I id   h back";

// The beginning of `text` that takes at most `columns`.
std::string cut(std::string_view text, std::size_t columns) {
  if (width_of(text) <= columns) return std::string(text);
  std::string kept;
  std::size_t used = 0;
  while (!text.empty()) {
    std::size_t bytes = 1;
    while (bytes < text.size() && (static_cast<unsigned char>(text[bytes]) & 0xc0) == 0x80) ++bytes;
    const std::string_view one = text.substr(0, bytes);
    const std::size_t width = width_of(one);
    if (used + width > columns) break;
    used += width;
    kept += one;
    text.remove_prefix(bytes);
  }
  return kept;
}

std::string padded(std::string text, std::size_t width, bool right) {
  text = cut(text, width);
  const std::string blanks(width - width_of(text), ' ');
  return right ? blanks + text : text + blanks;
}

std::string cell(const TopRow& row, TopColumn column) {
  switch (column) {
    case TopColumn::id: return std::to_string(row.id.value);
    case TopColumn::name: return row.name;
    case TopColumn::state: return std::string(control::name_of(row.state));
    case TopColumn::resident: return human(row.resident);
    case TopColumn::folded: return human(row.folded);
    case TopColumn::stall: return row.stall ? human_share(*row.stall) : "-";
    case TopColumn::refaults: return row.refaults ? fmt::format("{:.0f}", *row.refaults) : "-";
    case TopColumn::net: return human_signed(row.net_bytes);
  }
  return {};
}

// The columns that fit, and the width of the name.
struct Layout {
  std::vector<TopColumn> columns;
  std::size_t name_width = kNameUsual;
};
Layout layout_of(std::size_t width) {
  Layout layout;
  for (std::size_t i = 0; i < kTopColumns; ++i) layout.columns.push_back(static_cast<TopColumn>(i));
  if (width == 0) return layout;
  const auto others = [&] {
    std::size_t sum = 0;
    for (const TopColumn column : layout.columns) {
      if (column != TopColumn::name) sum += kShapes[at(column)].width + 1;
    }
    return sum;
  };
  for (const TopColumn out : kLeftOut) {
    if (others() + kNameMin <= width) break;
    std::erase(layout.columns, out);
  }
  layout.name_width = others() < width ? std::max(kNameMin, width - others()) : kNameMin;
  return layout;
}

template <typename Cell>
std::string line_of(const Layout& layout, Cell cell_of) {
  std::string line;
  for (const TopColumn column : layout.columns) {
    const Shape& shape = kShapes[at(column)];
    if (!line.empty()) line += ' ';
    line += padded(cell_of(column), column == TopColumn::name ? layout.name_width : shape.width,
                   shape.right);
  }
  return line;
}

std::string summary_of(const control::Snapshot* now) {
  if (now == nullptr) return "ramfold top";
  const control::HostView& host = now->host;
  return fmt::format("ramfold top - {}, {} {}, net saved {}, available {} of {}",
                     control::name_of(host.state), now->vms.size(),
                     now->vms.size() == 1 ? "VM" : "VMs", human_signed(host.saved.net_bytes),
                     human(host.ram_available), human(host.ram_total));
}

}  // namespace

bool is_restarted(const control::Snapshot& before, const control::Snapshot& now) noexcept {
  return now.host.uptime_seconds < before.host.uptime_seconds;
}

std::vector<TopRow> top_rows(const control::Snapshot* before, const control::Snapshot& now) {
  std::map<std::uint32_t, const control::VmView*> earlier;
  double seconds = 0;
  if (before != nullptr && !is_restarted(*before, now)) {
    for (const control::VmView& vm : before->vms) earlier[vm.id.value] = &vm;
    seconds = now.host.uptime_seconds - before->host.uptime_seconds;
  }
  std::vector<TopRow> rows;
  for (const control::VmView& vm : now.vms) {
    TopRow row{.id = vm.id,
               .name = printable(vm.name),
               .state = vm.state,
               .resident = bytes(vm.pages.resident),
               .folded = bytes(vm.saved.folded_pages()),
               .stall = {},
               .refaults = {},
               .net_bytes = vm.saved.net_bytes};
    const auto found = earlier.find(vm.id.value);
    // A VM that was attached anew counts from 0 again.
    if (found != earlier.end() && seconds > 0 &&
        vm.stalled_seconds >= found->second->stalled_seconds &&
        vm.backoff.returns >= found->second->backoff.returns) {
      const double stalled = vm.stalled_seconds - found->second->stalled_seconds;
      row.stall = stalled / seconds / std::max(vm.vcpus, 1u);
      row.refaults =
          static_cast<double>(vm.backoff.returns - found->second->backoff.returns) / seconds;
      row.over_budget = vm.stall_budget > 0 && *row.stall > vm.stall_budget;
    }
    rows.push_back(std::move(row));
  }
  return rows;
}

bool TopChoice::take(char key, std::size_t rows, std::size_t page) {
  const std::size_t last = rows > page ? rows - page : 0;
  first = std::min(first, last);
  const auto sort_by = [this](TopColumn column) {
    sort = column;
    reversed = false;
    first = 0;
  };
  switch (key) {
    case 'R': reversed = !reversed; return true;
    case 'h':
    case '?': help = !help; return true;
    case kTopUp: first -= std::min<std::size_t>(first, 1); return true;
    case kTopDown: first = std::min(first + 1, last); return true;
    case kTopPageUp: first -= std::min(first, page); return true;
    case kTopPageDown: first = std::min(first + page, last); return true;
    case '<':
    case '>': {
      std::size_t next = at(sort);
      do {  // a column without a key is not sorted by
        next = (next + (key == '>' ? 1 : kTopColumns - 1)) % kTopColumns;
      } while (kShapes[next].key == 0);
      sort_by(static_cast<TopColumn>(next));
      return true;
    }
    default: break;
  }
  for (std::size_t i = 0; i < kTopColumns; ++i) {
    if (kShapes[i].key == 0 || kShapes[i].key != key) continue;
    sort_by(static_cast<TopColumn>(i));
    return true;
  }
  return false;
}

void sort_rows(std::vector<TopRow>& rows, const TopChoice& choice) {
  const auto less = [&](const TopRow& a, const TopRow& b) {
    switch (choice.sort) {
      case TopColumn::name: return a.name < b.name;
      case TopColumn::resident: return a.resident > b.resident;
      case TopColumn::folded: return a.folded > b.folded;
      case TopColumn::stall: return a.stall.value_or(-1) > b.stall.value_or(-1);
      case TopColumn::refaults: return a.refaults.value_or(-1) > b.refaults.value_or(-1);
      case TopColumn::net: return a.net_bytes > b.net_bytes;
      case TopColumn::id:
      case TopColumn::state: break;
    }
    return a.id < b.id;
  };
  std::ranges::sort(rows, {}, &TopRow::id);
  std::ranges::stable_sort(rows, [&](const TopRow& a, const TopRow& b) {
    return choice.reversed ? less(b, a) : less(a, b);
  });
}

std::vector<TopLine> render_rows(const std::vector<TopRow>& rows, TopColumn sort,
                                 std::size_t width) {
  const Layout layout = layout_of(width);
  const auto kept = [&](std::string line) { return width == 0 ? line : cut(line, width); };
  std::vector<TopLine> lines;
  lines.push_back({TopLine::Kind::heading, kept(line_of(layout, [&](TopColumn column) {
                     const std::string title(kShapes[at(column)].title);
                     return column == sort ? title + "*" : title;
                   }))});
  for (const TopRow& row : rows) {
    lines.push_back({row.over_budget ? TopLine::Kind::over_budget : TopLine::Kind::plain,
                     kept(line_of(layout, [&](TopColumn column) { return cell(row, column); }))});
  }
  return lines;
}

std::size_t rows_on(std::size_t height) noexcept {
  return height > kLinesAbove ? height - kLinesAbove : 0;
}

std::vector<TopLine> render_top(const control::Snapshot* now, const std::vector<TopRow>& rows,
                                const TopChoice& choice, std::string_view notice, std::size_t width,
                                std::size_t height) {
  std::vector<TopLine> lines;
  lines.push_back({TopLine::Kind::summary, cut(summary_of(now), width)});
  const std::string_view second = choice.help ? kHelp : !notice.empty() ? notice : kKeys;
  lines.push_back({TopLine::Kind::notice, cut(printable(second), width)});
  const std::size_t page = rows_on(height);
  const std::size_t first = std::min(choice.first, rows.size() > page ? rows.size() - page : 0);
  const std::vector<TopRow> shown(
      rows.begin() + static_cast<std::ptrdiff_t>(first),
      rows.begin() + static_cast<std::ptrdiff_t>(std::min(rows.size(), first + page)));
  for (TopLine& line : render_rows(shown, choice.sort, width)) lines.push_back(std::move(line));
  if (lines.size() > height) lines.resize(height);
  return lines;
}

}  // namespace ramfold::cli
