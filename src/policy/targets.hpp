// SPDX-License-Identifier: GPL-2.0-or-later
// The settings that the configuration gives to one VM and to the host: plain values.
//
// Which VM is it? A VM's process tells name and uuid itself, and every local user can start a
// process that tells the same. Only the uid comes from the kernel. So an override of [[vm]]
//   - that names the owner (`user`, `uid`) holds for VMs of that owner only, with all its keys;
//   - that names no owner holds for every VM that claims the name, but only where it takes
//     something away: `false` for fold, zero, share, lz4 and map, folding under pressure only, more
//     passes or a smaller stall budget than the host's, a resident floor. A claim alone never gives
//     a trust group, or a mechanism that the host has switched off;
//   - holds with all its keys where the VM's manager vouches for name and uuid (Vouched::yes).
// Threads: pure functions and values; uid_of_user() reads the user database.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "policy/config.hpp"

namespace ramfold::policy {

// yes: the VM's manager confirms name and uuid. no: only the VM's own process tells them.
enum class Vouched : bool { no, yes };
struct VmClaim {
  std::string_view name;
  std::string_view uuid;  // lower case; empty: it has none
  std::uint32_t uid = 0;  // of its process, from the kernel
  Vouched vouched = Vouched::no;
};

// The uid of an account; empty when there is no such account.
using UidOf = std::optional<std::uint32_t> (*)(const std::string& user);
std::optional<std::uint32_t> uid_of_user(const std::string& user);

// The uuid in lower case; empty when `text` is no uuid.
std::string normal_uuid(std::string_view text);

struct VmTargets {
  bool fold = true;
  bool zero = true;
  bool share = true;
  bool lz4 = true;
  bool map = false;  // pages that are equal may map the pool of their group
  FoldWhen when = FoldWhen::pressure;
  unsigned passes = 2;
  double stall_budget = 0.01;
  ByteCount resident_floor{};
  friend bool operator==(const VmTargets&, const VmTargets&) = default;
};
// Of several overrides that match, the most exact one holds: by uuid before by name, then with an
// owner before without. Of equal ones, the first.
VmTargets vm_targets(const Config& config, const VmClaim& vm, UidOf uid_of = uid_of_user);
// The trust group that an override gives the VM; empty: Config::group_default decides.
std::optional<std::string> vm_group(const Config& config, const VmClaim& vm,
                                    UidOf uid_of = uid_of_user);

// The override that holds for a VM, without the keys that do not hold. nullopt: there is none.
std::optional<VmOverride> override_that_holds(const Config& config, const VmClaim& vm,
                                              UidOf uid_of = uid_of_user);

// Tells which overrides do not hold, or hold only in part, one complaint a line: "FILE:LINE: ...;
// remedy".
std::vector<std::string> override_complaints(const Config& config, std::string_view source,
                                             UidOf uid_of = uid_of_user);

// The host's settings, with all amounts in bytes.
struct HostTargets {
  FoldWhen when = FoldWhen::pressure;
  ByteCount keep_available;
  ByteCount reserve;
  ByteCount unbacked_max;
  friend bool operator==(const HostTargets&, const HostTargets&) = default;
};
HostTargets host_targets(const Config& config, ByteCount host_ram);

// The settings of scanning and folding.
struct WorkTargets {
  unsigned backoff_passes_max = 0;  // as FoldConfig::backoff_passes_max()
  double pass_seconds = 30;
  double scan_cpu = 0.25;
  unsigned scan_threads = 1;
  Referenced referenced = Referenced::off;
  friend bool operator==(const WorkTargets&, const WorkTargets&) = default;
};
WorkTargets work_targets(const Config& config);

}  // namespace ramfold::policy
