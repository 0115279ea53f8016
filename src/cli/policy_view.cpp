// SPDX-License-Identifier: GPL-2.0-or-later
#include "cli/policy_view.hpp"

#include "cli/table.hpp"
#include "control/names.hpp"

namespace ramfold::cli {
namespace {

using namespace ramfold::control;

std::string when_of(const PolicyKeyView& key) {
  const char* const when = key.takes == PolicyTakes::at_once     ? "at once"
                           : key.takes == PolicyTakes::at_attach ? "at the next attach"
                                                                 : "at the next start";
  return key.pending.empty() ? when : std::string(when) + ": " + printable(key.pending);
}

}  // namespace

std::string render_policy(const PolicyView& policy, const Style& style) {
  constexpr Align kLeft = Align::left;
  Table table({{"KEY"},
               {"VALUE", kLeft, Cut::when_narrow},
               {"FROM"},
               {"CHANGES", kLeft, Cut::when_narrow}});
  for (const PolicyKeyView& key : policy.keys) {
    const Colour colour = key.origin == PolicyOrigin::preset ? Colour::none : Colour::bold;
    table.row({{printable(key.key)},
               {printable(key.in_force), colour},
               {std::string(name_of(key.origin))},
               {when_of(key)}});
  }
  return table.text(style);
}

}  // namespace ramfold::cli
