// SPDX-License-Identifier: GPL-2.0-or-later
// The checks of the kernel's settings, and of KSM, zram and zswap.
#include <fmt/core.h>

#include <algorithm>

#include "cli/doctor.hpp"

namespace ramfold::cli {
namespace {

constexpr std::string_view kThp = "/sys/kernel/mm/transparent_hugepage";
// The kernel's default; a lower value limits QEMU too.
constexpr std::uint64_t kMapCountMin = 65530;
// Share of fs.file-max: above it, opening a file may soon fail everywhere on the host.
constexpr double kFilesShareMax = 0.9;

Check make(std::string_view id, Severity severity, std::string subject = {}) {
  Check check;
  check.id = id;
  check.severity = severity;
  check.subject = std::move(subject);
  return check;
}

void pass(Check& check, std::string text) { check.text = std::move(text); }
void fail(Check& check, std::string text, std::string remedy,
          std::vector<std::string> commands = {}) {
  check.outcome = Outcome::fail;
  check.text = std::move(text);
  check.remedy = std::move(remedy);
  check.commands = std::move(commands);
}
void unknown(Check& check, std::string_view path) {
  check.outcome = Outcome::unknown;
  check.text = fmt::format("{} cannot be read", path);
  check.remedy = "run as root, on Linux 6.7 or newer";
}

struct Version {
  std::uint64_t major = 0;
  std::uint64_t minor = 0;
};
std::optional<Version> version_of(std::string_view release) {
  const auto dot = release.find('.');
  if (dot == std::string_view::npos) return std::nullopt;
  const auto minor_end = release.find_first_not_of("0123456789", dot + 1);
  const auto major = number_of(release.substr(0, dot));
  const auto minor = number_of(release.substr(dot + 1, minor_end - dot - 1));
  if (!major || !minor) return std::nullopt;
  return Version{*major, *minor};
}

Check check_kernel(const HostFiles& host, std::string_view id, Severity severity,
                   std::uint64_t minor, std::string_view what, std::string_view without) {
  Check check = make(id, severity);
  constexpr std::string_view kRelease = "/proc/sys/kernel/osrelease";
  const auto release = host.word(kRelease);
  const auto version = release ? version_of(*release) : std::nullopt;
  if (!version) {
    unknown(check, kRelease);
  } else if (version->major > 6 || (version->major == 6 && version->minor >= minor)) {
    pass(check, fmt::format("Linux {} can {}", *release, what));
  } else {
    fail(check, fmt::format("Linux {} is older than 6.{}: {}", *release, minor, without),
         "boot a newer kernel (Debian 12: apt install -t bookworm-backports linux-image-amd64)");
  }
  return check;
}

Check check_userfaultfd(const HostFiles& host) {
  Check check = make("kernel.userfaultfd", Severity::problem);
  if (host.exists("/dev/userfaultfd")) {
    pass(check, "/dev/userfaultfd is there");
    return check;
  }
  // proc(5): minor and name of every misc device that a driver registered.
  const std::string misc = host.text("/proc/misc").value_or("");
  for (const std::string_view line : lines_of(misc)) {
    const auto words = words_of(line);
    if (words.size() == 2 && words[1] == "userfaultfd") {
      fail(check, "/dev/userfaultfd is missing, though the kernel has it",
           "make the node (udev normally does)",
           {fmt::format("mknod -m 0600 /dev/userfaultfd c 10 {}", words[0])});
      return check;
    }
  }
  fail(check, "the kernel has no /dev/userfaultfd",
       "boot a kernel of 6.7 or newer built with CONFIG_USERFAULTFD=y");
  return check;
}

Check check_unprivileged(const HostFiles& host) {
  Check check = make("kernel.unprivileged", Severity::info);
  constexpr std::string_view kPath = "/proc/sys/vm/unprivileged_userfaultfd";
  const auto value = host.number(kPath);
  if (!value) {
    unknown(check, kPath);
  } else if (*value == 0) {
    pass(check, "userfaultfd is for privileged processes alone; ramfold needs no more");
  } else {
    fail(check, "every process may use userfaultfd for kernel faults; ramfold does not need that",
         "unless another program does, take it back", {"sysctl -w vm.unprivileged_userfaultfd=0"});
  }
  return check;
}

Check check_mappings(const HostFiles& host) {
  Check check = make("kernel.mappings", Severity::warning);
  constexpr std::string_view kPath = "/proc/sys/vm/max_map_count";
  const auto value = host.number(kPath);
  if (!value) {
    unknown(check, kPath);
  } else if (*value >= kMapCountMin) {
    pass(check, fmt::format("a process may have {} mappings", *value));
  } else {
    fail(check, fmt::format("a process may have only {} mappings", *value),
         "restore the kernel's default or more, also in /etc/sysctl.d",
         {fmt::format("sysctl -w vm.max_map_count={}", kMapCountMin)});
  }
  return check;
}

Check check_files(const HostFiles& host) {
  Check check = make("kernel.files", Severity::warning);
  constexpr std::string_view kPath = "/proc/sys/fs/file-nr";
  const auto line = host.text(kPath);
  const auto words = line ? words_of(*line) : std::vector<std::string_view>{};
  const auto used = words.size() == 3 ? number_of(words[0]) : std::nullopt;
  const auto most = words.size() == 3 ? number_of(words[2]) : std::nullopt;
  if (!used || !most) {
    unknown(check, kPath);
  } else if (static_cast<double>(*used) <= kFilesShareMax * static_cast<double>(*most)) {
    pass(check, fmt::format("{} of {} open files are in use", *used, *most));
  } else {
    fail(check,
         fmt::format("{} of {} open files are in use: the next VM may not attach", *used, *most),
         "raise fs.file-max, also in /etc/sysctl.d",
         {fmt::format("sysctl -w fs.file-max={}", *used * 4)});
  }
  return check;
}

// Large folios in a RAM file cannot be given back page by page. never and advise keep them out (the
// agent tells the kernel that guest RAM wants none); for one size, inherit follows the setting for
// all sizes.
Check check_hugepages(const HostFiles& host, const std::string& file) {
  Check check = make("memory.hugepages", Severity::problem, file);
  const auto value = host.chosen(file);
  if (!value) {
    unknown(check, file);
  } else if (*value == "never" || *value == "advise" || *value == "deny" || *value == "inherit") {
    pass(check, fmt::format("large pages in shared memory: {}", *value));
  } else {
    fail(check,
         fmt::format("large pages in shared memory: {}; guest RAM made of them cannot be folded",
                     *value),
         "choose never (advise will do), also at boot; VMs that run already keep what they have",
         {fmt::format("echo never > {}", file)});
  }
  return check;
}

std::vector<Check> check_all_hugepages(const HostFiles& host) {
  std::vector<Check> checks;
  checks.push_back(check_hugepages(host, std::string(kThp) + "/shmem_enabled"));
  for (const std::string& name : host.names(kThp)) {
    const std::string file = fmt::format("{}/{}/shmem_enabled", kThp, name);
    if (name.starts_with("hugepages-") && host.exists(file)) {
      checks.push_back(check_hugepages(host, file));
    }
  }
  return checks;
}

Check check_ksm(const HostFiles& host) {
  Check check = make("memory.ksm", Severity::warning);
  const auto run = host.number("/sys/kernel/mm/ksm/run");
  if (!run || *run != 1) {
    pass(check, run ? "KSM is not running" : "the kernel has no KSM");
  } else {
    fail(check,
         "KSM is running: it burns CPU time and never merges shared guest RAM, which is what "
         "ramfold folds",
         "stop it, and what starts it (systemctl disable --now ksm ksmtuned)",
         {"echo 0 > /sys/kernel/mm/ksm/run"});
  }
  return check;
}

Check check_zram(const HostFiles& host) {
  Check check = make("memory.zram", Severity::info);
  std::vector<std::string> commands;
  std::size_t others = 0;
  const std::string swaps = host.text("/proc/swaps").value_or("");
  for (const std::string_view line : lines_of(swaps)) {
    const auto words = words_of(line);
    if (words.empty() || words[0] == "Filename") continue;
    if (words[0].starts_with("/dev/zram")) {
      commands.push_back(fmt::format("swapoff {}", words[0]));
    } else {
      ++others;
    }
  }
  if (commands.empty()) {
    pass(check, others == 0 ? "no swap" : "swap is on disk: pages in it are left there");
  } else {
    fail(check,
         "zram swap is active: guest pages that reach it are compressed a second way and out of "
         "ramfold's sight",
         "nothing is wrong with it; to leave guest memory to ramfold, switch it off",
         std::move(commands));
  }
  return check;
}

Check check_zswap(const HostFiles& host) {
  Check check = make("memory.zswap", Severity::info);
  const auto enabled = host.word("/sys/module/zswap/parameters/enabled");
  if (!enabled || (*enabled != "Y" && *enabled != "1")) {
    pass(check, "zswap is off");
  } else {
    fail(check, "zswap is on: pages on their way to swap are compressed out of ramfold's sight",
         "nothing is wrong with it; to leave guest memory to ramfold, switch it off",
         {"echo N > /sys/module/zswap/parameters/enabled"});
  }
  return check;
}

}  // namespace

std::vector<Check> check_host(const HostFiles& host) {
  std::vector<Check> checks{
      check_kernel(host, "kernel.fold", Severity::problem, 7, "fold",
                   "ramfold can only observe and estimate"),
      check_kernel(host, "kernel.map", Severity::info, 12, "map shared pages safely",
                   "pages that are read often cannot be shared while they are in use"),
      check_userfaultfd(host),
      check_unprivileged(host),
      check_mappings(host),
      check_files(host),
  };
  for (Check& check : check_all_hugepages(host)) checks.push_back(std::move(check));
  checks.push_back(check_ksm(host));
  checks.push_back(check_zram(host));
  checks.push_back(check_zswap(host));
  return checks;
}

}  // namespace ramfold::cli
