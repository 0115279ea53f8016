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
  std::string text;                   // what was found
  std::string remedy;                 // one sentence; empty unless failed or unknown
  std::vector<std::string> commands;  // apply the remedy now; empty when no command can
};

inline constexpr auto kChecks = std::to_array<std::string_view>({
    "kernel.fold",
    "kernel.map",
    "kernel.userfaultfd",
    "kernel.unprivileged",
    "kernel.mappings",
    "kernel.files",
    "memory.hugepages",
    "memory.ksm",
    "memory.zram",
    "memory.zswap",
    "daemon.running",
    "daemon.config",
    "daemon.state",
    "daemon.keeper",
    "daemon.self_test",
    "daemon.pin_test",
    "daemon.referenced",
    "daemon.folding",
    "daemon.files",
    "vm.command",
    "vm.agent",
    "vm.group",
    "vm.cgroup",
    "vm.mappings",
    "vm.map",
    "vm.folding",
});

// `daemon` in the functions below: its snapshot, or why there is none.
std::vector<Check> check_host(const HostFiles& host);
// May this user look at the processes of other users? All checks of VMs depend on it. The check is
// "doctor.rights", which is not in kChecks: it passes or is unknown, and never fails.
Check check_rights(const HostFiles& host);
std::vector<Check> check_daemon(const HostFiles& host, const Asked<control::Snapshot>& daemon);
std::vector<Check> check_vms(const HostFiles& host, const control::Snapshot* daemon = nullptr);
// The checks of one QEMU; empty when the process runs no VM. `daemon` knows whether the migration
// of -incoming has ended, which the command line does not tell.
std::vector<Check> check_vm(const HostFiles& host, pid_t pid,
                            const control::Snapshot* daemon = nullptr);
// A row for each reason why a VM of the daemon is not folded, unless another check has that reason.
std::vector<Check> check_folding(const HostFiles& host, const control::Snapshot& daemon);

// Something failed that is more than information.
bool found_problems(const std::vector<Check>& checks);
enum class Detail : bool { failed_only, all };
std::string render_checks(const std::vector<Check>& checks, Detail detail, const Style& style);
// {"checks": [...], "ok": ...}
std::string json_of(const std::vector<Check>& checks);

}  // namespace ramfold::cli
