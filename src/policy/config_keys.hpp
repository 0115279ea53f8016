// SPDX-License-Identifier: GPL-2.0-or-later
// The keys of ramfold.toml as a table: path and allowed values of each. The reader, the check for
// unknown keys and the tests of the documentation use this one list.
// Threads: constants and pure functions.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "policy/config.hpp"

namespace ramfold::policy {

struct KeyInfo {
  std::string_view path;     // "fold.when"; keys of [[vm]] are "vm.name", ...
  std::string_view allowed;  // in words for messages: "\"pressure\" or \"eager\""
};
// Every key, those of [[vm]] included.
std::span<const KeyInfo> config_keys();

// Why a key cannot have a value, and what to do.
struct KeyProblem {
  std::string key;
  std::string text;
  std::string remedy;
  std::string line() const { return key + ": " + text + "; " + remedy; }
  friend bool operator==(const KeyProblem&, const KeyProblem&) = default;
};
// Sets one key from a text as an operator types it: 3, true, eager, 20%. nullopt: it is set. Else
// nothing has changed. Keys of a VM are named without "vm.".
std::optional<KeyProblem> set_key(Config& config, std::string_view path, std::string_view text);
std::optional<KeyProblem> set_key(VmOverride& vm, std::string_view name, std::string_view text);
// Keys that are valid each and not together. nullopt: none.
std::optional<KeyProblem> contradiction(const Config& config);

}  // namespace ramfold::policy
