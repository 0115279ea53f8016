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

// In "-cpu model,+a,-b,c=on" the last setting of a feature wins. `by_model`: whether the model has
// it.
bool has_feature(string_view cpu, string_view feature, bool by_model) {
  bool has = by_model;
  while (!cpu.empty()) {
    const std::size_t comma = cpu.find(',');
    string_view item = cpu.substr(0, comma);
    cpu.remove_prefix(comma == string_view::npos ? cpu.size() : comma + 1);
    if (item == feature || (item.starts_with('+') && item.substr(1) == feature)) has = true;
    if (item.starts_with('-') && item.substr(1) == feature) has = false;
    if (!item.starts_with(feature) || item.substr(feature.size(), 1) != "=") continue;
    item.remove_prefix(feature.size() + 1);
    has = item != "off" && item != "no" && item != "false" && item != "n";
  }
  return has;
}

void read_cpu(string_view cpu, CommandLine& line) {
  const string_view model = cpu.substr(0, cpu.find(','));
  // These models have the host's features. Under KVM, other models leave vmx and svm off.
  const bool all = model == "host" || model == "max";
  line.guest_vmx = has_feature(cpu, "vmx", all);
  line.guest_svm = has_feature(cpu, "svm", all);
}

bool contains(string_view text, string_view part) noexcept {
  return text.find(part) != string_view::npos;
}

void read_device(string_view value, CommandLine& line) {
  if (contains(value, "scsi-block") || contains(value, "scsi-generic")) {
    line.scsi_passthrough = true;
  }
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
    if (option == "cpu") read_cpu(value, line);
    if (option == "device" || option == "netdev") read_device(value, line);
    if (option == "object" || option == "machine" || option == "M") read_object(value, line);
  }
  return line;
}

}  // namespace ramfold::guest
