// SPDX-License-Identifier: GPL-2.0-or-later
#include "policy/amount.hpp"

#include <array>
#include <charconv>
#include <cmath>

namespace ramfold::policy {
namespace {

// 2^53: a double holds all whole numbers up to this. Far above the RAM of any host.
constexpr double kBytesMax = 9007199254740992.0;

struct Unit {
  std::string_view name;
  double bytes;
};
constexpr std::array kUnits{Unit{"", 1.0},
                            Unit{"B", 1.0},
                            Unit{"KiB", 1024.0},
                            Unit{"MiB", 1048576.0},
                            Unit{"GiB", 1073741824.0},
                            Unit{"TiB", 1099511627776.0}};

}  // namespace

std::optional<MemoryAmount> parse_amount(std::string_view text) {
  double number = 0;
  const auto [end, error] =
      std::from_chars(text.data(), text.data() + text.size(), number, std::chars_format::fixed);
  if (error != std::errc{} || !std::isfinite(number) || number < 0) return std::nullopt;
  std::string_view unit = text.substr(static_cast<std::size_t>(end - text.data()));
  while (!unit.empty() && unit.front() == ' ') unit.remove_prefix(1);
  if (unit == "%") {
    if (number > 100) return std::nullopt;
    return MemoryAmount::of_percent(number);
  }
  for (const Unit& known : kUnits) {
    if (unit != known.name) continue;
    const double bytes = number * known.bytes;
    if (bytes > kBytesMax) return std::nullopt;
    return MemoryAmount::of_bytes(ByteCount{static_cast<std::uint64_t>(bytes)});
  }
  return std::nullopt;
}

}  // namespace ramfold::policy
