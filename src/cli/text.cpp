// SPDX-License-Identifier: GPL-2.0-or-later
#include "cli/text.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "base/check.hpp"

namespace ramfold::cli {
namespace {

std::string three_digits(double value) {
  return value < 99.95 ? fmt::format("{:.1f}", value) : fmt::format("{:.0f}", value);
}

}  // namespace

std::string human(ByteCount bytes) {
  if (bytes.value < 1024) return fmt::format("{} B", bytes.value);
  constexpr std::array kUnits{"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  double value = static_cast<double>(bytes.value) / 1024;
  std::size_t unit = 0;
  while (value >= 1023.95 && unit + 1 < kUnits.size()) {
    value /= 1024;
    ++unit;
  }
  return fmt::format("{} {}", three_digits(value), kUnits[unit]);
}

std::string human_signed(std::int64_t bytes) {
  if (bytes >= 0) return human(ByteCount{static_cast<std::uint64_t>(bytes)});
  return "-" + human(ByteCount{std::uint64_t{0} - static_cast<std::uint64_t>(bytes)});
}

std::string human_count(std::uint64_t count) {
  std::string text = std::to_string(count);
  for (std::size_t at = text.size(); at > 3;) {
    at -= 3;
    text.insert(at, ",");
  }
  return text;
}

std::string human_duration_ns(std::uint64_t ns) {
  const auto value = static_cast<double>(ns);
  if (ns < 1000) return fmt::format("{} ns", ns);
  if (value < 999'950) return three_digits(value / 1e3) + " us";
  if (value < 999'950'000) return three_digits(value / 1e6) + " ms";
  return three_digits(value / 1e9) + " s";
}

std::string human_duration_s(double seconds) {
  if (!(seconds >= 0) || seconds > 1e12) return "?";
  if (seconds < 10) return fmt::format("{:.1f} s", seconds);
  const auto whole = static_cast<std::uint64_t>(std::llround(seconds));
  if (whole < 120) return fmt::format("{} s", whole);
  const std::uint64_t minutes = whole / 60;
  if (minutes < 60) return fmt::format("{} min", minutes);
  const std::uint64_t hours = minutes / 60;
  if (hours < 24) return fmt::format("{} h {} min", hours, minutes % 60);
  return fmt::format("{} d {} h", hours / 24, hours % 24);
}

std::string human_share(double share) { return fmt::format("{:.2f} %", share * 100); }

std::size_t width_of(std::string_view text) {
  return static_cast<std::size_t>(std::count_if(text.begin(), text.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xc0) != 0x80;
  }));
}

std::string Style::paint(Colour colour, std::string_view text) const {
  if (!coloured_ || colour == Colour::none || text.empty()) return std::string(text);
  const char* code = "";
  switch (colour) {
    case Colour::none: break;
    case Colour::red: code = "31"; break;
    case Colour::green: code = "32"; break;
    case Colour::yellow: code = "33"; break;
    case Colour::bold: code = "1"; break;
    case Colour::dim: code = "2"; break;
  }
  return fmt::format("\x1b[{}m{}\x1b[0m", code, text);
}

void Table::row(std::vector<Cell> cells) {
  ENSURE(cells.size() == columns_.size());
  rows_.push_back({std::move(cells), {}});
}

void Table::note(std::string text) {
  ENSURE(!rows_.empty());
  rows_.back().notes.push_back(std::move(text));
}

std::string Table::text(const Style& style) const {
  std::vector<std::size_t> widths;
  for (std::size_t i = 0; i < columns_.size(); ++i) {
    std::size_t width = width_of(columns_[i].title);
    for (const Row& row : rows_) width = std::max(width, width_of(row.cells[i].text));
    widths.push_back(width);
  }
  std::string out;
  const auto line = [&](auto&& cell_of) {
    std::string text;
    for (std::size_t i = 0; i < columns_.size(); ++i) {
      const Cell cell = cell_of(i);
      const std::string pad(widths[i] - width_of(cell.text), ' ');
      const bool last = i + 1 == columns_.size();
      if (columns_[i].align == Align::right) text += pad;
      text += style.paint(cell.colour, cell.text);
      if (columns_[i].align == Align::left && !last) text += pad;
      if (!last) text += "  ";
    }
    while (text.ends_with(' ')) text.pop_back();
    out += text + "\n";
  };
  line([&](std::size_t i) { return Cell{columns_[i].title, Colour::bold}; });
  for (const Row& row : rows_) {
    line([&](std::size_t i) { return row.cells[i]; });
    for (const std::string& note : row.notes) out += note + "\n";
  }
  return out;
}

}  // namespace ramfold::cli
