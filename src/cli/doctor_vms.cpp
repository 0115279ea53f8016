// SPDX-License-Identifier: GPL-2.0-or-later
// The checks of each running QEMU.
#include <fmt/core.h>

#include <algorithm>
#include <optional>

#include "cli/doctor.hpp"
#include "cli/qemu_command.hpp"

namespace ramfold::cli {
namespace {

constexpr std::string_view kAgentName = "libramfold-agent";
// What QEMU needs beside guest RAM, page tables included: device models, video memory, threads.
constexpr std::uint64_t kQemuOwnBytes = 256u << 20;
constexpr double kMappingsShareMax = 0.8;

struct Qemu {
  pid_t pid = 0;
  std::string label;
  QemuAdvice advice;
};

Check make(std::string_view id, const Qemu& qemu) {
  Check check;
  check.id = id;
  check.severity = Severity::warning;
  check.subject = qemu.label;
  return check;
}

// Nothing when the process is not a QEMU that runs a VM.
std::optional<Qemu> qemu_of(const HostFiles& host, pid_t pid) {
  const std::vector<std::string> arguments = host.arguments(pid);
  if (arguments.empty() || !is_qemu(arguments.front())) return std::nullopt;
  Qemu qemu{pid, {}, examine(arguments)};
  if (qemu.advice.probing) return std::nullopt;
  qemu.label = qemu.advice.name.empty() ? fmt::format("pid {}", pid)
                                        : fmt::format("{} (pid {})", qemu.advice.name, pid);
  return qemu;
}

std::vector<Check> check_command(const Qemu& qemu) {
  std::vector<Check> checks;
  for (const control::Reason& reason : qemu.advice.reasons) {
    Check check = make("vm.command", qemu);
    check.outcome = Outcome::fail;
    check.text = reason.text;
    check.remedy = reason.remedy;
    checks.push_back(std::move(check));
  }
  if (checks.empty()) {
    checks.push_back(make("vm.command", qemu));
    checks.back().text = "nothing on the command line stands against folding";
  }
  return checks;
}

Check check_agent(const HostFiles& host, const Qemu& qemu) {
  Check check = make("vm.agent", qemu);
  const auto maps = host.of(qemu.pid, "maps");
  if (!maps || maps->empty()) {
    check.outcome = Outcome::unknown;
    check.text = "its mappings cannot be read";
    check.remedy = "run as root";
  } else if (maps->find(kAgentName) != std::string::npos) {
    check.text = "the agent is loaded";
  } else {
    check.outcome = Outcome::fail;
    check.text = "it runs without the agent: ramfold does not see it";
    check.remedy =
        "start it with `ramfold exec -- qemu-system-x86_64 ...` (libvirt: <emulator> with "
        "the wrapper, see the operator's guide)";
  }
  return check;
}

Check check_cgroup(const HostFiles& host, const Qemu& qemu) {
  Check check = make("vm.cgroup", qemu);
  const auto limit = host.memory_limit(qemu.pid);
  const ByteCount needed{qemu.advice.ram.value + kQemuOwnBytes};
  if (!limit || qemu.advice.ram.value == 0) {
    check.text = "no memory limit below the host's";
  } else if (limit->bytes >= needed) {
    check.text = fmt::format("its memory limit, {}, holds all of its RAM", human(limit->bytes));
  } else {
    check.outcome = Outcome::fail;
    check.text = fmt::format(
        "its cgroup allows {}, its RAM alone has {}: when folded pages come back "
        "the kernel may kill it",
        human(limit->bytes), human(qemu.advice.ram));
    check.remedy =
        fmt::format("allow at least {} (libvirt: virsh memtune {} --hard-limit {})", human(needed),
                    qemu.advice.name.empty() ? "DOMAIN" : qemu.advice.name, needed.value / 1024);
    check.commands = {fmt::format("echo {} > {}", needed.value, limit->path)};
  }
  return check;
}

Check check_mappings(const HostFiles& host, const Qemu& qemu) {
  Check check = make("vm.mappings", qemu);
  const auto maps = host.of(qemu.pid, "maps");
  const auto most = host.number("/proc/sys/vm/max_map_count");
  if (!maps || maps->empty() || !most) {
    check.outcome = Outcome::unknown;
    check.text = "its mappings cannot be counted";
    check.remedy = "run as root";
    return check;
  }
  const auto count = static_cast<std::uint64_t>(std::count(maps->begin(), maps->end(), '\n'));
  check.text = fmt::format("{} of {} mappings", count, *most);
  if (static_cast<double>(count) > kMappingsShareMax * static_cast<double>(*most)) {
    check.outcome = Outcome::fail;
    check.text += ": it is close to where its own mmap fails";
    check.remedy = "raise the limit, also in /etc/sysctl.d";
    check.commands = {fmt::format("sysctl -w vm.max_map_count={}", count * 4)};
  }
  return check;
}

}  // namespace

std::vector<Check> check_vm(const HostFiles& host, pid_t pid) {
  const auto qemu = qemu_of(host, pid);
  if (!qemu) return {};
  std::vector<Check> checks = check_command(*qemu);
  checks.push_back(check_agent(host, *qemu));
  checks.push_back(check_cgroup(host, *qemu));
  checks.push_back(check_mappings(host, *qemu));
  return checks;
}

std::vector<Check> check_vms(const HostFiles& host) {
  std::vector<Check> checks;
  for (const pid_t pid : host.processes()) {
    for (Check& check : check_vm(host, pid)) checks.push_back(std::move(check));
  }
  return checks;
}

}  // namespace ramfold::cli
