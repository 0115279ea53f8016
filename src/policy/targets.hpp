// SPDX-License-Identifier: GPL-2.0-or-later
// What the configuration means for one VM and for the host: plain values, computed once and handed
// to those who go by them.
//
// Who is a VM? Its name and uuid are what its own process says, and every local user can start a
// process that says the same; only the uid is told by the kernel. So an override of [[vm]]
//   - that names the owner (`user`, `uid`) holds for VMs of that owner only, with all its keys;
//   - that names none holds for whoever claims the name, but only where it takes away: fold, zero,
//     share and lz4 as false, and a grace period that is 0 or longer. A trust group, a mechanism
//     that the host has not, and a grace period are never given to a claim;
//   - holds with all its keys where name and uuid come from who manages the VM (Vouched::yes).
// Threads: pure functions and values; uid_of_user() reads the user database.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "policy/config.hpp"

namespace ramfold::policy {

// Are name and uuid known from who manages the VM, or from its own process alone?
enum class Vouched : bool { no, yes };
struct VmClaim {
  std::string_view name;
  std::string_view uuid;  // lower case; empty: it has none
  std::uint32_t uid = 0;  // of its process, as the kernel says
  Vouched vouched = Vouched::no;
};

// The number of an account; nothing where there is no such account.
using UidOf = std::optional<std::uint32_t> (*)(const std::string& user);
std::optional<std::uint32_t> uid_of_user(const std::string& user);

// A uuid in lower case; empty when it is none.
std::string normal_uuid(std::string_view text);

struct VmTargets {
  bool fold = true;
  bool zero = true;
  bool share = true;
  bool lz4 = true;
  double grace_seconds = 0;
  friend bool operator==(const VmTargets&, const VmTargets&) = default;
};
// Of several overrides the most exact holds: by uuid before by name, with an owner before without.
VmTargets vm_targets(const Config& config, const VmClaim& vm, UidOf uid_of = uid_of_user);
// The trust group that the configuration gives it; nothing: Config::group_default decides.
std::optional<std::string> vm_group(const Config& config, const VmClaim& vm,
                                    UidOf uid_of = uid_of_user);

// Overrides of which a part does not hold, one a line: "FILE:LINE: ...; what to do".
std::vector<std::string> override_complaints(const Config& config, std::string_view source,
                                             UidOf uid_of = uid_of_user);

// What the host is to keep to, in bytes of this host.
struct HostTargets {
  FoldWhen when = FoldWhen::pressure;
  ByteCount keep_available;
  ByteCount reserve;
  ByteCount unbacked_max;
  friend bool operator==(const HostTargets&, const HostTargets&) = default;
};
HostTargets host_targets(const Config& config, ByteCount host_ram);

}  // namespace ramfold::policy
