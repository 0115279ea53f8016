// SPDX-License-Identifier: GPL-2.0-or-later
#include "cli/text.hpp"

#include <fmt/core.h>

#include <wchar.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cwchar>

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

Utf8::Utf8() noexcept : utf8_(::newlocale(LC_CTYPE_MASK, "C.UTF-8", nullptr)), before_(nullptr) {
  if (utf8_ != nullptr) before_ = ::uselocale(utf8_);
}

Utf8::~Utf8() {
  if (utf8_ == nullptr) return;
  ::uselocale(before_);
  ::freelocale(utf8_);
}

std::size_t width_of(std::string_view text) {
  const Utf8 utf8;
  std::mbstate_t state{};
  std::size_t width = 0;
  while (!text.empty()) {
    if (text.starts_with("\x1b[")) {
      const std::size_t end = text.find('m');
      text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
      continue;
    }
    wchar_t character = 0;
    const std::size_t size = std::mbrtowc(&character, text.data(), text.size(), &state);
    const bool valid = size != 0 && size <= text.size();
    if (!valid) state = {};
    const int columns = valid ? ::wcwidth(character) : 1;
    width += columns > 0 ? static_cast<std::size_t>(columns) : 0;
    text.remove_prefix(valid ? size : 1);
  }
  return width;
}

std::string wrap(std::string_view text, std::size_t width, std::size_t at, std::size_t indent) {
  if (width == 0) return std::string(text);
  std::string out;
  bool first = true;  // in its line
  while (!text.empty()) {
    const std::size_t end = std::min(text.find(' '), text.size());
    const std::string_view word = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    const std::size_t size = width_of(word);
    if (!first && at + 1 + size > width) {
      out.append("\n").append(indent, ' ');
      at = indent;
      first = true;
    }
    if (!first) out += ' ';
    at += size + (first ? 0 : 1);
    out += word;
    first = false;
  }
  return out;
}

std::string_view code_of(Colour colour) {
  switch (colour) {
    case Colour::none: break;
    case Colour::red: return "\x1b[31m";
    case Colour::green: return "\x1b[32m";
    case Colour::yellow: return "\x1b[33m";
    case Colour::bold: return "\x1b[1m";
    case Colour::dim: return "\x1b[2m";
  }
  return {};
}

std::string Style::paint(Colour colour, std::string_view text) const {
  if (!coloured_ || colour == Colour::none || text.empty()) return std::string(text);
  return fmt::format("{}{}\x1b[0m", code_of(colour), text);
}

}  // namespace ramfold::cli
