// SPDX-License-Identifier: GPL-2.0-or-later
// From when on a changed key holds: the one table. `ramfold policy`, the messages of a reload and
// the table in ramfold.toml(5) are made from it or compared with it.
// Threads: constants and pure functions.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "policy/config.hpp"

namespace ramfold::policy {

enum class Takes : std::uint8_t {
  at_once,    // workers read it anew
  at_attach,  // for VMs that are attached from then on; the others keep what they have
  at_start,   // of the next daemon
};

struct KeyEffect {
  std::string_view path;  // as in config_keys()
  Takes takes;
  std::string_view how;  // how it is taken up, or why not sooner: the end of a sentence
  // Keys of [[vm]] have neither.
  std::string (*shown)(const Config&) = nullptr;  // as in the file, texts without quotes
  void (*copy)(Config& to, const Config& from) = nullptr;
};
// One for every key of config_keys(), in the same order.
std::span<const KeyEffect> key_effects();
// nullptr: there is no such key.
const KeyEffect* effect_of(std::string_view path);

// "at once", "at the next attach", "at the next start".
std::string_view words_of(Takes takes);

// `read` with the keys of `running` that change only at the next start.
Config with_keys_of_start(Config read, const Config& running);
// Those of these keys that differ.
std::vector<const KeyEffect*> waiting_for_start(const Config& read, const Config& running);

}  // namespace ramfold::policy
