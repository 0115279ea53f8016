// SPDX-License-Identifier: GPL-2.0-or-later
// The configuration that a daemon goes by, also when the file is broken. Each file that was read
// well is copied into the state directory (`ramfold.toml.good`, with a first line that tells of
// which file it is, when it was read and how long it is).
//
// A broken file, and the copy is of that file and still valid: the copy is gone by, with every
//   grace period taken out: data is put at risk by a file that is valid now, or not at all.
// A broken file otherwise: nothing is folded and no VM is attached. Of the file what is valid is
//   kept, so that sockets and state directory are where they were, and folded VMs are served.
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
  bool named = false;  // by the operator: then a missing file is an error
  policy::DataLossRisk risk = policy::DataLossRisk::refused;
  std::string runtime_dir;  // in place of the configured ones; empty: not given
  std::string state_dir;
};

struct Configuration {
  policy::Config config;
  std::vector<std::string> problems;      // of the file, one line each; empty: it is valid
  std::optional<control::Reason> broken;  // why nothing may be folded
  std::vector<control::Reason> notices;   // to be mended, and no reason not to fold
};

Configuration load_configuration(const ConfigurationSource& source);

}  // namespace ramfold::daemon
