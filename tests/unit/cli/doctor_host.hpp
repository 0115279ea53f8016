// SPDX-License-Identifier: GPL-2.0-or-later
// A host that `ramfold doctor` looks at, in tests: its files, its daemon, and what fails on it.
// Threads: one.
#pragma once

#include <fmt/core.h>
#include <unistd.h>

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "cli/doctor.hpp"
#include "fake_host.hpp"

namespace ramfold::cli {

inline constexpr const char* kThp = "sys/kernel/mm/transparent_hugepage/";

// A host that has nothing to complain about, with one VM.
struct DoctorHost : FakeHost {
  DoctorHost() {
    tree.write("proc/sys/kernel/osrelease", "6.12.5-amd64\n");
    tree.write("dev/userfaultfd", "");
    tree.write("proc/misc", "126 userfaultfd\n235 autofs\n");
    tree.write("proc/sys/vm/unprivileged_userfaultfd", "0\n");
    tree.write("proc/sys/fs/file-nr", "1000\t0\t100000\n");
    tree.write(std::string(kThp) + "shmem_enabled",
               "always within_size advise [never] deny force\n");
    tree.write(std::string(kThp) + "hugepages-2048kB/shmem_enabled",
               "always [inherit] within_size advise never\n");
    tree.write("sys/kernel/mm/ksm/run", "0\n");
    tree.write("proc/swaps",
               "Filename\tType\tSize\tUsed\tPriority\n/dev/sda2 partition 100 0 -2\n");
    tree.write("sys/module/zswap/parameters/enabled", "N\n");
    tree.write("proc/50/comm", "ramfoldd\n");
    tree.write("proc/50/cmdline", cmdline({"/usr/sbin/ramfoldd"}));
    tree.write("proc/50/limits",
               "Limit  Soft  Hard  Units\nMax open files    16384   16384   files\n");
    tree.write("proc/101/comm", "qemu-system-x86\n");
    tree.write("sys/fs/cgroup/machine.slice/memory.max", "max\n");
    tree.write("sys/fs/cgroup/machine.slice/web.scope/memory.max", "max\n");
    tree.write("proc/101/environ", std::string("A=b\0LD_PRELOAD=x\0", 17));
    tree.write("etc/group", fmt::format("root:x:0:\nkvm:x:{}:\n", ::getegid()));
    tree.write("etc/passwd", "root:x:0:0::/:/bin/sh\nlibvirt-qemu:x:64055:64055::/:/bin/sh\n");
    daemon.vms = {control::fake_vm(1, "web", control::VmState::folding)};
    daemon.vms[0].pid = 101;
  }
  std::vector<Check> checks() const {
    const HostFiles files(tree.path());
    std::vector<Check> all = check_host(files);
    const Asked<control::Snapshot> asked =
        running ? Asked<control::Snapshot>(daemon)
                : std::unexpected(ClientError{ClientError::Kind::not_running, {}});
    for (Check& check : check_daemon(files, asked)) all.push_back(check);
    for (Check& check : check_vms(files, running ? &daemon : nullptr)) all.push_back(check);
    if (running) {
      for (Check& check : check_folding(files, daemon)) all.push_back(check);
    }
    return all;
  }

  bool running = true;
};

inline void good_arguments(DoctorHost& host) { host.arguments(kQemu); }
inline std::function<void(DoctorHost&)> more_arguments(const std::vector<std::string>& more) {
  return [more](DoctorHost& host) {
    std::vector<std::string> all = kQemu;
    all.insert(all.end(), more.begin(), more.end());
    host.arguments(all);
  };
}

inline std::vector<Check> failed(const DoctorHost& host, std::string_view id) {
  std::vector<Check> found;
  for (const Check& check : host.checks()) {
    if (check.id == id && check.outcome == Outcome::fail) found.push_back(check);
  }
  return found;
}

}  // namespace ramfold::cli
