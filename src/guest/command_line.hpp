// SPDX-License-Identifier: GPL-2.0-or-later
// What QEMU's command line says about folding. Pure.
// Threads: values.
#pragma once

#include <span>
#include <string>
#include <string_view>

namespace ramfold::guest {

struct CommandLine {
  bool incoming = false;          // -incoming
  bool confidential = false;      // SEV, TDX
  bool scsi_passthrough = false;  // scsi-block, scsi-generic
  bool vhost_user = false;
  // The guest can run guests of its own: vmx on Intel, svm on AMD.
  bool guest_vmx = false;
  bool guest_svm = false;
};
CommandLine read_command_line(std::span<const std::string> arguments);

}  // namespace ramfold::guest
