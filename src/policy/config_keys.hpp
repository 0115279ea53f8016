// SPDX-License-Identifier: GPL-2.0-or-later
// The keys of ramfold.toml as a table: where each is written and what it may be. The one list that
// the reader, the unknown-key check and the tests of the documentation use.
// Threads: constants.
#pragma once

#include <span>
#include <string>
#include <string_view>

namespace ramfold::policy {

struct KeyInfo {
  std::string_view path;     // "fold.when"; keys of [[vm]] are "vm.name", ...
  std::string_view allowed;  // for people: "\"pressure\" or \"eager\""
};
// Every key, those of [[vm]] included.
std::span<const KeyInfo> config_keys();

}  // namespace ramfold::policy
