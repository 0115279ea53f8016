// SPDX-License-Identifier: GPL-2.0-or-later
// The checks of each running QEMU.
#include <elf.h>
#include <fmt/core.h>

#include <algorithm>
#include <cstring>
#include <optional>

#include "cli/doctor.hpp"
#include "cli/program_file.hpp"
#include "cli/qemu_process.hpp"

namespace ramfold::cli {
namespace {

constexpr std::string_view kAgentName = "libramfold-agent";
// Memory that QEMU needs beside guest RAM: page tables, device models, video memory, threads.
constexpr std::uint64_t kQemuOwnBytes = 256u << 20;
constexpr double kMappingsShareMax = 0.8;

Check make(std::string_view id, const Qemu& qemu) {
  Check check;
  check.id = id;
  check.severity = Severity::warning;
  check.subject = qemu.label;
  return check;
}

std::vector<Check> check_command(const Qemu& qemu) {
  std::vector<Check> checks;
  for (const std::string& file : qemu.advice.unread) {
    Check check = make("vm.command", qemu);
    check.outcome = Outcome::unknown;
    check.text =
        fmt::format("its -readconfig file cannot be read, so its RAM is not known: {}", file);
    check.remedy = "run as root, while the file is there and is what QEMU read";
    checks.push_back(std::move(check));
  }
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

// getauxval(3), AT_SECURE: the loader was told to trust nothing of its environment.
bool was_started_secure(const HostFiles& host, pid_t pid) {
  struct Entry {
    std::uint64_t type;
    std::uint64_t value;
  } entry{};
  const std::string all = host.of(pid, "auxv").value_or("");
  for (std::size_t at = 0; at + sizeof entry <= all.size(); at += sizeof entry) {
    std::memcpy(&entry, all.data() + at, sizeof entry);
    if (entry.type == AT_SECURE) return entry.value != 0;
  }
  return false;
}

NotLoaded why_without_agent(const HostFiles& host, pid_t pid) {
  const std::string exe = host.at(fmt::format("/proc/{}/exe", pid));
  if (auto never = cannot_load(exe)) return *never;
  if (was_started_secure(host, pid)) {
    if (auto rights = has_rights(exe, host.link_of(pid, "exe"))) return *rights;
    return {
        "the kernel told the loader to ignore LD_PRELOAD, because of a security module or of the "
        "rights of the process that started it",
        "let SELinux or AppArmor keep the environment when it starts QEMU (see the operator's "
        "guide), and start QEMU as the user that it runs as"};
  }
  if (host.of(pid, "environ").value_or("").find(kAgentName) != std::string::npos) {
    return {"its LD_PRELOAD names the agent, and the loader could not load it",
            "look at QEMU's stderr or log for the loader's line; QEMU's user must be able to read "
            "the library"};
  }
  return {"ramfold does not see it",
          "start it with `ramfold exec -- qemu-system-x86_64 ...` (libvirt: <emulator> with "
          "the wrapper, see the operator's guide)"};
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
    const NotLoaded reason = why_without_agent(host, qemu.pid);
    check.outcome = Outcome::fail;
    check.text = "it runs without the agent: " + reason.why;
    check.remedy = reason.remedy;
  }
  return check;
}

// The path of the socket to which its agent connects: given to `ramfold exec`, or the default.
std::string agent_socket_of(const HostFiles& host, pid_t pid) {
  constexpr std::string_view kName = "RAMFOLD_AGENT_SOCKET=";
  const std::string environment = host.of(pid, "environ").value_or("");
  for (std::size_t at = 0; at < environment.size();) {
    const std::string variable = environment.substr(at, environment.find('\0', at) - at);
    if (variable.starts_with(kName)) return variable.substr(kName.size());
    at += variable.size() + 1;
  }
  return "/run/ramfold/agent.sock";
}

// The numbers of a line of /proc/PID/status.
std::vector<std::uint64_t> ids_of(std::string_view status, std::string_view name) {
  std::vector<std::uint64_t> ids;
  for (const std::string_view line : lines_of(status)) {
    if (!line.starts_with(name)) continue;
    for (const std::string_view word : words_of(line.substr(name.size()))) {
      if (const auto id = number_of(word)) ids.push_back(*id);
    }
  }
  return ids;
}

// May its user connect to the daemon? The daemon gives /dev/userfaultfd to each agent, so it admits
// only one group.
Check check_group(const HostFiles& host, const Qemu& qemu) {
  Check check = make("vm.group", qemu);
  const std::string socket = agent_socket_of(host, qemu.pid);
  const auto owner = host.owner(socket);
  const std::string status = host.of(qemu.pid, "status").value_or("");
  const auto users = ids_of(status, "Uid:");
  if (users.size() != 4 || !owner) {
    check.outcome = Outcome::unknown;
    check.text = owner ? "its user cannot be read" : fmt::format("there is no {}", socket);
    check.remedy = owner ? "run as root" : "start the daemon";
    return check;
  }
  const std::string user = host.user_name(users[1]);
  const bool for_group = (owner->mode & 0060) == 0060;
  auto groups = ids_of(status, "Groups:");
  for (const std::uint64_t gid : ids_of(status, "Gid:")) groups.push_back(gid);
  if (users[1] == 0 || (for_group && std::ranges::find(groups, owner->group) != groups.end())) {
    check.text = fmt::format("its user, {}, may use {}", user, socket);
    return check;
  }
  check.outcome = Outcome::fail;
  if (for_group) {
    const std::string group = host.group_name(owner->group);
    check.text = fmt::format(
        "its user, {}, is not in the group {}: ramfold does not hear its agent", user, group);
    check.remedy = fmt::format(
        "add it (usermod -aG {} {}), or name another agent_group in "
        "ramfold.toml; then start the VM anew",
        group, user);
  } else {
    check.text = fmt::format("its user is {}, and only root may use {}", user, socket);
    check.remedy =
        "make the group that agent_group names in ramfold.toml (groupadd --system kvm), add the "
        "user, restart the daemon, then start the VM anew";
  }
  return check;
}

Check check_cgroup(const HostFiles& host, const Qemu& qemu) {
  Check check = make("vm.cgroup", qemu);
  const ByteCount ram = qemu.advice.ram;
  const ByteCount needed{ram.value + kQemuOwnBytes};
  const auto hard = host.memory_limit(qemu.pid, HostFiles::Limit::hard);
  const auto soft = host.memory_limit(qemu.pid, HostFiles::Limit::soft);
  const bool kills = hard && hard->bytes < needed;
  const auto& limit = kills ? hard : soft;
  if (!hard && !soft) {
    check.text = "no memory limit below the host's";
  } else if (ram.value == 0) {
    check.outcome = Outcome::unknown;
    check.text = "it has a memory limit, and how much RAM it has is not known";
    check.remedy = "see vm.command";
  } else if (!limit || limit->bytes >= needed) {
    check.text = fmt::format("its memory limit, {}, holds all of its RAM",
                             human(hard ? hard->bytes : soft->bytes));
  } else {
    check.outcome = Outcome::fail;
    check.text = fmt::format(
        "its cgroup allows {}{}, its RAM alone has {}: when folded pages come back the kernel {}",
        human(limit->bytes), kills ? "" : " (memory.high)", human(ram),
        kills ? "may kill it" : "holds it up until it has almost stopped");
    check.remedy =
        fmt::format("allow at least {} (libvirt: virsh memtune {} --{} {})", human(needed),
                    qemu.advice.name.empty() ? "DOMAIN" : qemu.advice.name,
                    kills ? "hard-limit" : "soft-limit", needed.value / 1024);
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
    check.text += ": close to the limit, beyond which its own mmap fails";
    check.remedy = "raise the limit, also in /etc/sysctl.d";
    check.commands = {fmt::format("sysctl -w vm.max_map_count={}", count * 4)};
  }
  return check;
}

Check check_map(const Qemu& qemu, const control::Snapshot* daemon) {
  Check check = make("vm.map", qemu);
  check.severity = Severity::info;
  check.text = "nothing stands against sharing pages that are read (if fold.map is on)";
  if (daemon == nullptr) return check;
  for (const control::VmView& vm : daemon->vms) {
    if (vm.pid != qemu.pid || vm.notices.empty()) continue;
    check.outcome = Outcome::fail;
    check.text = vm.notices.front().text;
    check.remedy = vm.notices.front().remedy;
  }
  return check;
}

bool is_incoming(const control::Reason& reason) { return reason.code == "incoming_migration"; }

// The operator has said so with `attach --incoming-finished`.
bool migration_has_ended(const control::Snapshot& daemon, pid_t pid) {
  return std::ranges::any_of(daemon.vms, [&](const control::VmView& vm) {
    return vm.pid == pid && std::ranges::none_of(vm.reasons, is_incoming);
  });
}

}  // namespace

std::vector<Check> check_vm(const HostFiles& host, pid_t pid, const control::Snapshot* daemon) {
  auto qemu = qemu_of(host, pid);
  if (!qemu) return {};
  if (daemon != nullptr && migration_has_ended(*daemon, pid)) {
    std::erase_if(qemu->advice.reasons, is_incoming);
  }
  std::vector<Check> checks = check_command(*qemu);
  checks.push_back(check_agent(host, *qemu));
  checks.push_back(check_group(host, *qemu));
  checks.push_back(check_cgroup(host, *qemu));
  checks.push_back(check_mappings(host, *qemu));
  checks.push_back(check_map(*qemu, daemon));
  return checks;
}

std::vector<Check> check_vms(const HostFiles& host, const control::Snapshot* daemon) {
  std::vector<Check> checks;
  for (const pid_t pid : host.processes()) {
    for (Check& check : check_vm(host, pid, daemon)) checks.push_back(std::move(check));
  }
  return checks;
}

}  // namespace ramfold::cli
