// SPDX-License-Identifier: GPL-2.0-or-later
// What a QEMU command line says about folding: read by `ramfold exec` before QEMU starts and by
// `ramfold doctor` for those that run. It is advice: the daemon looks at the process itself.
// Covers the options of QEMU 7 to 10 that matter, in both forms (key=value and libvirt's JSON).
// Threads: pure functions.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/types.hpp"
#include "control/views.hpp"

namespace ramfold::cli {

// The program's name is that of a QEMU system emulator: qemu-system-*, qemu-kvm, kvm.
bool is_qemu(std::string_view program);

struct QemuAdvice {
  std::string name;      // -name (guest=), may be empty
  std::string uuid;      // -uuid, may be empty
  ByteCount ram;         // size of the RAM backends, else -m; 0 when neither says
  bool probing = false;  // -machine none, or a question such as -version: no VM will run
  // Why it would only be observed, as the command line shows: codes as the daemon names them.
  std::vector<control::Reason> reasons;
};
// `arguments` begins with the program's name.
QemuAdvice examine(std::span<const std::string> arguments);

}  // namespace ramfold::cli
