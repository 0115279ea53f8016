// SPDX-License-Identifier: GPL-2.0-or-later
// The files that QEMU's -readconfig takes, as LXD, Incus and Proxmox write them:
//
//   # a comment
//   [object "ram0"]
//     qom-type = "memory-backend-memfd"
//     size = "1G"
//
// A group stands for an option of the command line, the word in quotes is its id.
// Threads: pure functions.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/result.hpp"
#include "cli/qemu_properties.hpp"

namespace ramfold::cli {

struct ConfigGroup {
  std::string name;  // "object", "memory"
  Properties properties;
};

// A line that is not understood is an error, because QEMU would not start with the file. The error
// names the line.
Result<std::vector<ConfigGroup>> parse_qemu_config(std::string_view text);

}  // namespace ramfold::cli
