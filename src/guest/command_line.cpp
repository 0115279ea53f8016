// SPDX-License-Identifier: GPL-2.0-or-later
#include "guest/command_line.hpp"

namespace ramfold::guest {
namespace {

using std::string_view;

// "-device" and "--device" are the same to QEMU.
string_view option_of(string_view argument) noexcept {
  if (!argument.starts_with('-')) return {};
  argument.remove_prefix(argument.starts_with("--") ? 2 : 1);
  return argument;
}

bool contains(string_view text, string_view part) noexcept {
  return text.find(part) != string_view::npos;
}

void read_device(string_view value, CommandLine& line) {
  if (contains(value, "vhost-user")) line.vhost_user = true;
}

void read_object(string_view value, CommandLine& line) {
  constexpr string_view kSigns[] = {"confidential-guest-support", "memory-encryption", "sev-guest",
                                    "sev-snp-guest", "tdx-guest"};
  for (const string_view sign : kSigns) {
    if (contains(value, sign)) line.confidential = true;
  }
}

}  // namespace

CommandLine read_command_line(std::span<const std::string> arguments) {
  CommandLine line;
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    const string_view option = option_of(arguments[i]);
    const string_view value = i + 1 < arguments.size() ? string_view(arguments[i + 1]) : "";
    if (option == "incoming") line.incoming = true;
    if (option == "device" || option == "netdev") read_device(value, line);
    if (option == "object" || option == "machine" || option == "M") read_object(value, line);
  }
  return line;
}

}  // namespace ramfold::guest
