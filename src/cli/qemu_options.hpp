// SPDX-License-Identifier: GPL-2.0-or-later
// A QEMU command line taken apart into its options, those of its -readconfig files among them.
// Covers QEMU 7 to 10, in both forms (key=value and libvirt's JSON).
// Threads: pure but for what the reader does.
#pragma once

#include <functional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.hpp"
#include "base/types.hpp"
#include "cli/qemu_properties.hpp"

namespace ramfold::cli {

// Text of a file that QEMU's command line names, as QEMU would find it.
using ConfigReader = std::function<Result<std::string>(const std::string& path)>;

struct QemuOption {
  std::string_view name;  // one that is looked at, without dashes: "object", "machine" (also -M)
  Properties properties;
};

struct QemuOptions {
  std::vector<QemuOption> options;  // in the order in which QEMU sees them
  std::set<std::string> flags;      // names of all options, also of those not looked at
  bool probing = false;             // a question, such as -version or -device help
  // -readconfig files that cannot be read, each with why: what they say is not known.
  std::vector<std::string> unread;

  // The last value of a key: QEMU merges options that are given several times (-m, -machine).
  std::string last(std::string_view option, const std::string& key) const;
};

// `arguments` begins with the program's name.
QemuOptions read_options(std::span<const std::string> arguments, const ConfigReader& read);

// "512M", "4G", "4096" (in `unit` bytes without a suffix); 0 when it is no size.
ByteCount size_of(std::string_view text, std::uint64_t unit);

}  // namespace ramfold::cli
