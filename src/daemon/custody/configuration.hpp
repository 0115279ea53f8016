// SPDX-License-Identifier: GPL-2.0-or-later
// Loads the configuration, also when its file is broken. Each valid file is copied into the state
// directory as `ramfold.toml.good`. The first line of the copy tells the path of the file, when it
// was read, and its length.
//
// A broken file has two cases:
// - The copy is of this file and still valid: the copy is used.
// - Else nothing is folded and no VM is attached. The valid settings of the file are used, so that
//   sockets and state directory stay where they were, and folded VMs are served.
// Threads: at the start, from one.
#pragma once

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
  policy::Config config;
  std::vector<std::string> problems;      // errors of the file, one line each; empty: it is valid
  std::optional<control::Reason> broken;  // why nothing may be folded
  std::vector<control::Reason> notices;   // problems that do not stop folding
};

Configuration load_configuration(const ConfigurationSource& source);

}  // namespace ramfold::daemon
