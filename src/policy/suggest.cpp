// SPDX-License-Identifier: GPL-2.0-or-later
#include "policy/suggest.hpp"

#include <algorithm>
#include <vector>

namespace ramfold::policy {
namespace {

// A longer name is no mistyped key. The bound keeps the table small.
constexpr std::size_t kNameMax = 128;

std::string_view leaf(std::string_view path) {
  const auto dot = path.rfind('.');
  return dot == std::string_view::npos ? path : path.substr(dot + 1);
}

}  // namespace

unsigned edit_distance(std::string_view a, std::string_view b) {
  a = a.substr(0, kNameMax);
  b = b.substr(0, kNameMax);
  std::vector<std::vector<unsigned>> d(a.size() + 1, std::vector<unsigned>(b.size() + 1));
  for (std::size_t i = 0; i <= a.size(); ++i) d[i][0] = static_cast<unsigned>(i);
  for (std::size_t j = 0; j <= b.size(); ++j) d[0][j] = static_cast<unsigned>(j);
  for (std::size_t i = 1; i <= a.size(); ++i) {
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const unsigned change = a[i - 1] == b[j - 1] ? 0 : 1;
      d[i][j] = std::min({d[i - 1][j] + 1, d[i][j - 1] + 1, d[i - 1][j - 1] + change});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
        d[i][j] = std::min(d[i][j], d[i - 2][j - 2] + 1);
      }
    }
  }
  return d[a.size()][b.size()];
}

std::string nearest(std::string_view typed, std::span<const std::string> known) {
  // A third of the letters may be wrong; with more wrong letters it is another word.
  const auto allowed = [](std::string_view name) {
    return static_cast<unsigned>(std::max<std::size_t>(1, name.size() / 3));
  };
  std::string best;
  unsigned best_distance = ~0u;
  for (const std::string& name : known) {
    const unsigned whole = edit_distance(typed, name);
    if (whole <= allowed(leaf(name)) && whole < best_distance) {
      best = name;
      best_distance = whole;
    }
    // A right name in a wrong section counts as one error more than the same distance in the right
    // one.
    const unsigned last = edit_distance(leaf(typed), leaf(name));
    if (last <= allowed(leaf(name)) && last + 1 < best_distance) {
      best = name;
      best_distance = last + 1;
    }
  }
  return best;
}

}  // namespace ramfold::policy
