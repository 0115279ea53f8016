// SPDX-License-Identifier: GPL-2.0-or-later
// Whether the host as a whole may be folded: facts in, a verdict out, with a reason and a remedy
// for whatever stands against it.
// Threads: pure functions.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "daemon/fleet/host_state.hpp"
#include "policy/config.hpp"
#include "sys/procfs.hpp"

namespace ramfold::daemon {

// A VM of a predecessor that this daemon does not serve.
struct UnservedVm {
  VmId id;
  std::string why;
  bool held = false;  // it is served once what is left of the predecessor has ended
};

// What is so at this moment.
struct HostInputs {
  std::optional<control::Reason> config_broken;     // and no good configuration is known
  std::optional<std::string> decisions_unreadable;  // why it is not known what was decided
  std::optional<bool> self_test_passed;             // nothing: it has not run
  bool keeper_connected = false;
  bool keeper_silent = false;  // it is there, and does not answer
  bool recovering = false;
  std::string recovery_trouble;  // why recovery has to be tried again; empty: it has not failed
  std::vector<UnservedVm> unserved;
  bool paused = false;
  bool off = false;
  std::optional<std::string> off_trouble;   // why not everything is back
  std::optional<std::string> off_but_lost;  // all is back but these pages, which are lost
  bool store_full = false;
  std::optional<sys::MemInfo> memory;  // nothing: it cannot be read
  ByteCount needed_if_all_back;
};

HostVerdict judge_host(const HostInputs& inputs, const policy::Config& config);

}  // namespace ramfold::daemon
