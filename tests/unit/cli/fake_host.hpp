// SPDX-License-Identifier: GPL-2.0-or-later
// The files of a host with one VM, pid 101, against which nothing stands, and what its daemon says.
// Threads: one.
#pragma once

#include <fmt/core.h>
#include <sys/stat.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "../control/fake_service.hpp"
#include "../temp_dir.hpp"

namespace ramfold::cli {

inline const std::vector<std::string> kQemu{"/usr/bin/qemu-system-x86_64",
                                            "-name",
                                            "guest=web",
                                            "-object",
                                            "memory-backend-memfd,id=r,size=1G,share=on",
                                            "-machine",
                                            "q35,memory-backend=r",
                                            "-drive",
                                            "file=/img/web.qcow2"};

// As /proc has it.
inline std::string cmdline(const std::vector<std::string>& arguments) {
  std::string text;
  for (const auto& argument : arguments) text += argument + '\0';
  return text;
}

struct FakeHost {
  FakeHost() {
    tree.write("proc/sys/vm/max_map_count", "65530\n");
    tree.write("proc/101/cgroup", "0::/machine.slice/web.scope\n");
    tree.write("proc/101/maps", "7f00-7f01 r-xp 0 08:01 5 /usr/lib/ramfold/libramfold-agent.so\n");
    arguments(kQemu);
    member();
    tree.write("run/ramfold/agent.sock", "");
    ::chmod((tree / "run/ramfold/agent.sock").c_str(), 0660);
    control::FakeService service;
    daemon = service.snapshot();
  }
  void arguments(const std::vector<std::string>& all) const {
    tree.write("proc/101/cmdline", cmdline(all));
  }
  // Its user is a member of the agents' group, or is not.
  void member(bool is = true) const {
    tree.write("proc/101/status",
               fmt::format("Name:\tqemu\nUid:\t64055\t64055\t64055\t64055\n"
                           "Gid:\t64055\t64055\t64055\t64055\nGroups:\t{} 64055\n",
                           is ? ::getegid() : 64056));
  }

  TempDir tree;
  control::Snapshot daemon;
};

}  // namespace ramfold::cli
