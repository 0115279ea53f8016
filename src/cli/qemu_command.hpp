// SPDX-License-Identifier: GPL-2.0-or-later
// What a QEMU command line says about folding. `ramfold exec` reads it before QEMU starts; `ramfold
// doctor` and `ramfold estimate` read it from running QEMUs. It is advice: the daemon looks at the
// process itself. Threads: pure functions, but for what the reader does.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/types.hpp"
#include "cli/qemu_options.hpp"
#include "control/views.hpp"
#include "estimate/find_ram.hpp"

namespace ramfold::cli {

// The program's name is that of a QEMU system emulator, as distributions name it: qemu-system-*,
// qemu-kvm, kvm-spice, ".qemu-system-x86_64-wrapped".
bool is_qemu(std::string_view program);

struct QemuAdvice {
  std::string name;      // -name (guest=), may be empty
  std::string uuid;      // -uuid, may be empty
  bool probing = false;  // -machine none, or a question such as -version: no VM will run
  // Files of -readconfig that cannot be read, each with why. Their content is not known, so nothing
  // is said about RAM.
  std::vector<std::string> unread;
  ByteCount ram;  // including memory devices; 0 when it is not known
  std::vector<estimate::MemoryBlock> blocks;
  // Why the VM would only be observed, as far as the command line shows. The codes are the
  // daemon's.
  std::vector<control::Reason> reasons;
};
// `arguments` begins with the program's name. Without a reader a -readconfig file is unread.
QemuAdvice examine(std::span<const std::string> arguments, const ConfigReader& read = {});

}  // namespace ramfold::cli
