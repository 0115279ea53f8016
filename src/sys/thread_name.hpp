// SPDX-License-Identifier: GPL-2.0-or-later
// Names of threads, as ps(1) shows them. A thread that makes calls on a VM's memory carries that
// VM's number: when a daemon was killed and such a call has not ended, the next daemon knows by the
// name which VM's memory the call may still change (daemon/custody/predecessor.hpp).
// Threads: each names itself.
#pragma once

#include <sys/prctl.h>

#include <array>
#include <charconv>
#include <cstdio>
#include <optional>
#include <string_view>

#include "base/types.hpp"

namespace ramfold::sys {

// The kernel takes the first 15 bytes.
inline void name_this_thread(const char* name) noexcept { ::prctl(PR_SET_NAME, name); }

// "rf12-fault". The number comes first, and is never cut off.
inline void name_this_thread(VmId vm, const char* what) noexcept {
  std::array<char, 32> name{};
  (void)std::snprintf(name.data(), name.size(), "rf%u-%s", vm.value, what);
  name_this_thread(name.data());
}

// The VM in a thread's name. Nothing: the thread makes no calls on a VM's memory.
inline std::optional<VmId> vm_of_thread(std::string_view name) noexcept {
  if (!name.starts_with("rf")) return std::nullopt;
  name.remove_prefix(2);
  VmId vm{0};
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), vm.value);
  if (error != std::errc{} || end == name.data() + name.size() || *end != '-') return std::nullopt;
  return vm;
}

}  // namespace ramfold::sys
