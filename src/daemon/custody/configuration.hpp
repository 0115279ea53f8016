// SPDX-License-Identifier: GPL-2.0-or-later
// Loads the configuration, also when its file is broken. Each valid file is copied into the state
// directory as `ramfold.toml.good`. The first line of the copy tells the path of the file, when it
// was read, and its length.
//
// A broken file has two cases:
// - The copy is of this file and still valid: the copy is used.
// - Else nothing is folded and no VM is attached. The valid settings of the file are used, so that
//   sockets and state directory stay where they were, and folded VMs are served.
// A running daemon reads the file anew (live_policy.hpp). Then a broken file changes nothing.
// Threads: pure functions but for the files; one call at a time.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "control/views.hpp"
#include "policy/config.hpp"

namespace ramfold::daemon {

struct ConfigurationSource {
  std::string path;
  bool named = false;       // the operator gave the path: then a missing file is an error
  std::string runtime_dir;  // both replace the configured directory; empty: not given
  std::string state_dir;
};

struct Configuration {
  ConfigurationSource source;
  policy::Config config;
  // The line of each key in the file that `config` is from.
  std::map<std::string, unsigned, std::less<>> lines;
  std::vector<std::string> problems;      // errors of the file, one line each; empty: it is valid
  std::optional<control::Reason> broken;  // why nothing may be folded
  std::vector<control::Reason> notices;   // problems that do not stop folding
};

Configuration load_configuration(const ConfigurationSource& source);

// The same for a running daemon: with `problems` when the file is broken, and without the last good
// one. `state_dir`: of the running daemon, for the copy.
Configuration read_configuration(const ConfigurationSource& source, const std::string& state_dir);
// What is wrong with `broken`, read by a running daemon that goes on with what it has.
control::Reason not_taken(const Configuration& broken);

}  // namespace ramfold::daemon
