// SPDX-License-Identifier: GPL-2.0-or-later
// The keys of ramfold.toml as a table: path and allowed values of each. The reader, the check for
// unknown keys and the tests of the documentation use this one list.
// Threads: constants.
#pragma once

#include <span>
#include <string>
#include <string_view>

namespace ramfold::policy {

struct KeyInfo {
  std::string_view path;     // "fold.when"; keys of [[vm]] are "vm.name", ...
  std::string_view allowed;  // in words for messages: "\"pressure\" or \"eager\""
};
// Every key, those of [[vm]] included.
std::span<const KeyInfo> config_keys();

}  // namespace ramfold::policy
