// SPDX-License-Identifier: GPL-2.0-or-later
// `ramfold doctor`: what keeps this host, or one of its VMs, from being folded well, and what to
// do. Checks only read. Every check is named in kChecks; tests/unit/cli/doctor_test.cpp holds for
// each a host on which it fails and shows that its remedy, applied, makes it pass. Threads: pure
// but for reading files.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "cli/client.hpp"
#include "cli/host_files.hpp"
#include "cli/text.hpp"
#include "control/views.hpp"

namespace ramfold::cli {

enum class Severity : std::uint8_t {
  info,     // good to know
  warning,  // ramfold works, but saves less, wastes or risks something
  problem,  // ramfold cannot do its work
};
enum class Outcome : std::uint8_t { pass, fail, unknown };

struct Check {
  std::string_view id;  // one of kChecks
  std::string subject;  // which VM or file, where there are several
  Severity severity = Severity::warning;
  Outcome outcome = Outcome::pass;
  std::string text;                   // what is so
  std::string remedy;                 // one sentence; empty unless failed or unknown
  std::vector<std::string> commands;  // what applies the remedy now, where a command does
};

inline constexpr auto kChecks = std::to_array<std::string_view>({
    "kernel.fold",     "kernel.map",    "kernel.userfaultfd", "kernel.unprivileged",
    "kernel.mappings", "kernel.files",  "memory.hugepages",   "memory.ksm",
    "memory.zram",     "memory.zswap",  "daemon.running",     "daemon.config",
    "daemon.state",    "daemon.keeper", "daemon.self_test",   "daemon.grace",
    "daemon.files",    "vm.command",    "vm.agent",           "vm.group",
    "vm.cgroup",       "vm.mappings",
});

// `daemon`: its snapshot, or why there is none.
std::vector<Check> check_host(const HostFiles& host);
// Whether this user may look at the processes of others, on which all that concerns VMs depends:
// "doctor.rights", the one check that is not of the host, and is never failed, but unknown.
Check check_rights(const HostFiles& host);
std::vector<Check> check_daemon(const HostFiles& host, const Asked<control::Snapshot>& daemon);
std::vector<Check> check_vms(const HostFiles& host, const control::Snapshot* daemon = nullptr);
// Those of one QEMU; empty when the process runs no VM. `daemon`: where it knows better.
std::vector<Check> check_vm(const HostFiles& host, pid_t pid,
                            const control::Snapshot* daemon = nullptr);

// Something failed that is more than information.
bool found_problems(const std::vector<Check>& checks);
enum class Detail : bool { failed_only, all };
std::string render_checks(const std::vector<Check>& checks, Detail detail, const Style& style);
// {"checks": [...], "ok": ...}
std::string json_of(const std::vector<Check>& checks);

}  // namespace ramfold::cli
