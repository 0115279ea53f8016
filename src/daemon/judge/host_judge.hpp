// SPDX-License-Identifier: GPL-2.0-or-later
// Decides from facts whether the daemon may fold on this host. Each obstacle gives a reason; its
// words are in host_words.hpp.
// Threads: pure functions.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "daemon/fleet/host_state.hpp"
#include "guest/facts.hpp"
#include "policy/config.hpp"
#include "sys/procfs.hpp"

namespace ramfold::daemon {

// A VM that a daemon before this one served, and that this one does not.
struct UnservedVm {
  VmId id;
  std::string why;
  bool held = false;  // it will be served after the rest of the last daemon has ended
};

// The facts at this moment.
struct HostInputs {
  std::optional<control::Reason> config_broken;     // and there is no last good configuration
  std::optional<std::string> decisions_unreadable;  // why the file of decisions cannot be read
  std::optional<bool> self_test_passed;             // nullopt: it has not run
  std::optional<guest::NoPinTest> no_pin_test;      // the kernel does not tell who holds a page
  bool keeper_connected = false;
  bool keeper_silent = false;  // it runs, and does not answer
  bool recovering = false;
  std::string recovery_trouble;  // why recovery failed and is tried again; empty: no failure
  std::vector<UnservedVm> unserved;
  bool paused = false;
  bool off = false;
  std::optional<std::string> off_trouble;   // why not everything is back
  std::optional<std::string> off_but_lost;  // everything is back but these lost pages
  bool store_full = false;
  std::optional<sys::MemInfo> memory;                     // nullopt: /proc/meminfo cannot be read
  unsigned memory_stalled_permille = 0;                   // PSI; 0 where there is none
  policy::Memory memory_before = policy::Memory::enough;  // of the verdict before
  ByteCount needed_if_all_back;
};

HostVerdict judge_host(const HostInputs& inputs, const policy::Config& config);

}  // namespace ramfold::daemon
