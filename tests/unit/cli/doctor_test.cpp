// SPDX-License-Identifier: GPL-2.0-or-later
// For every check: a host on which it fails, and its remedy applied to that host, after which it
// passes.
#include "cli/doctor.hpp"

#include <elf.h>
#include <fmt/core.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <catch2/catch.hpp>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <set>

#include "doctor_host.hpp"

using namespace ramfold;
using namespace ramfold::cli;

namespace {

using Host = DoctorHost;

std::string text_at(const std::string& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

// The commands that remedies consist of, as they act on the tree. False: not one of them.
bool apply_command(const Host& host, const std::string& command) {
  std::istringstream in(command);
  std::vector<std::string> words{std::istream_iterator<std::string>(in), {}};
  const auto path_of = [](const std::string& absolute) { return absolute.substr(1); };
  if (words.size() == 3 && words[0] == "sysctl" && words[1] == "-w") {
    const auto equals = words[2].find('=');
    std::string path = "proc/sys/" + words[2].substr(0, equals);
    std::replace(path.begin(), path.end(), '.', '/');
    std::string value = words[2].substr(equals + 1);
    if (path == "proc/sys/fs/file-max") {
      path = "proc/sys/fs/file-nr";
      value = "9500\t0\t" + value;
    }
    REQUIRE(HostFiles(host.tree.path()).exists("/" + path));
    host.tree.write(path, value + "\n");
    return true;
  }
  if (words.size() == 4 && words[0] == "echo" && words[2] == ">") {
    REQUIRE(HostFiles(host.tree.path()).exists(words[3]));
    host.tree.write(path_of(words[3]), words[1] + "\n");
    return true;
  }
  if (words.size() == 2 && words[0] == "swapoff") {
    std::string rest;
    std::istringstream swaps(text_at(host.tree / "proc/swaps"));
    for (std::string line; std::getline(swaps, line);) {
      if (!line.starts_with(words[1])) rest += line + "\n";
    }
    host.tree.write("proc/swaps", rest);
    return true;
  }
  if (words.size() == 7 && words[0] == "mknod" && words[3] == "/dev/userfaultfd") {
    CHECK(words[6] == "126");
    host.tree.write("dev/userfaultfd", "");
    return true;
  }
  if (words.size() == 4 && words[0] == "prlimit") {
    const std::string limit = words[3].substr(words[3].find('=') + 1);
    host.tree.write("proc/" + words[2] + "/limits",
                    "Max open files " + limit + " " + limit + " files\n");
    return true;
  }
  return false;
}

struct Fixture {
  const char* id;
  std::function<void(Host&)> spoil;
  const char* text;    // part of what it says
  const char* remedy;  // part of what it advises
  // Where the remedy is no command on a file: what following it does to the host.
  std::function<void(Host&)> follow;
};

void new_kernel(Host& host) { host.tree.write("proc/sys/kernel/osrelease", "6.12.5\n"); }
void write_many_maps(Host& host, int count) {
  std::string maps = "7f00-7f01 r-xp 0 08:01 5 /usr/lib/ramfold/libramfold-agent.so\n";
  for (int i = 0; i < count; ++i) maps += "1-2 r--p 0 0:0 0\n";
  host.tree.write("proc/101/maps", maps);
}
void without_agent(Host& host) { host.tree.write("proc/101/maps", "1-2 r--p 0 0:0 0\n"); }
std::string auxv(std::uint64_t secure) {
  const std::array<std::uint64_t, 6> all{AT_PAGESZ, 4096, AT_SECURE, secure, AT_NULL, 0};
  return {reinterpret_cast<const char*>(all.data()), sizeof all};
}
// A program of this machine's kind, with an interpreter or none.
std::string elf_program(const std::string& interpreter) {
  Elf64_Ehdr header{};
  std::ifstream("/proc/self/exe", std::ios::binary)
      .read(reinterpret_cast<char*>(&header), sizeof header);
  header.e_phoff = sizeof header;
  header.e_phnum = 1;
  Elf64_Phdr segment{};
  segment.p_type = interpreter.empty() ? PT_LOAD : PT_INTERP;
  segment.p_offset = sizeof header + sizeof segment;
  segment.p_filesz = interpreter.size() + 1;
  std::string file(reinterpret_cast<const char*>(&header), sizeof header);
  file.append(reinterpret_cast<const char*>(&segment), sizeof segment);
  return file + interpreter + '\0';
}
// What the daemon says of a VM that it does not fold, or of which it folds less than it might.
Fixture not_folded(control::VmState state, const char* code) {
  return {"vm.folding",
          [=](Host& h) {
            h.daemon.vms[0].state = state;
            h.daemon.vms[0].reasons = {{code, "this is so", "do that"}};
          },
          "this is so", "do that",
          [](Host& h) {
            h.daemon.vms[0].state = control::VmState::folding;
            h.daemon.vms[0].reasons.clear();
          }};
}

// What the daemon says of the host, and of each VM as well.
Fixture of_host(const char* code, const char* text, const char* remedy) {
  return {
      "daemon.folding",
      [=](Host& h) { h.daemon.host.reasons = h.daemon.vms[0].reasons = {{code, text, remedy}}; },
      text, remedy,
      [](Host& h) {
        h.daemon.host.reasons.clear();
        h.daemon.vms[0].reasons.clear();
      }};
}

const std::vector<Fixture> kFixtures{
    {"kernel.fold", [](Host& h) { h.tree.write("proc/sys/kernel/osrelease", "6.1.0-44-amd64\n"); },
     "older than 6.7", "bookworm-backports", new_kernel},
    {"kernel.fold", [](Host& h) { h.tree.write("proc/sys/kernel/osrelease", "5.15.0\n"); },
     "older than 6.7", "newer kernel", new_kernel},
    {"kernel.map", [](Host& h) { h.tree.write("proc/sys/kernel/osrelease", "6.7.0\n"); },
     "older than 6.12", "newer kernel", new_kernel},
    {"kernel.userfaultfd", [](Host& h) { std::filesystem::remove(h.tree / "dev/userfaultfd"); },
     "is missing", "make the node", nullptr},
    {"kernel.userfaultfd",
     [](Host& h) {
       std::filesystem::remove(h.tree / "dev/userfaultfd");
       h.tree.write("proc/misc", "235 autofs\n");
     },
     "the kernel has no", "CONFIG_USERFAULTFD=y",
     [](Host& h) {
       h.tree.write("proc/misc", "126 userfaultfd\n");
       h.tree.write("dev/userfaultfd", "");
     }},
    {"kernel.unprivileged",
     [](Host& h) { h.tree.write("proc/sys/vm/unprivileged_userfaultfd", "1\n"); }, "does not need",
     "take it back", nullptr},
    {"kernel.mappings", [](Host& h) { h.tree.write("proc/sys/vm/max_map_count", "8192\n"); },
     "only 8192", "sysctl.d", nullptr},
    {"kernel.files", [](Host& h) { h.tree.write("proc/sys/fs/file-nr", "9500\t0\t10000\n"); },
     "9500 of 10000", "fs.file-max", nullptr},
    {"memory.hugepages",
     [](Host& h) {
       h.tree.write(std::string(kThp) + "shmem_enabled", "[always] within_size advise never\n");
     },
     "always", "choose never", nullptr},
    {"memory.hugepages",
     [](Host& h) {
       h.tree.write(std::string(kThp) + "hugepages-64kB/shmem_enabled",
                    "always inherit [within_size] advise never\n");
     },
     "within_size", "choose never", nullptr},
    {"memory.ksm", [](Host& h) { h.tree.write("sys/kernel/mm/ksm/run", "1\n"); }, "never merges",
     "ksmtuned", nullptr},
    {"memory.zram",
     [](Host& h) {
       h.tree.write("proc/swaps",
                    "Filename Type Size Used Priority\n/dev/zram0 partition 9 0 100\n");
     },
     "zram", "switch it off", nullptr},
    {"memory.zswap", [](Host& h) { h.tree.write("sys/module/zswap/parameters/enabled", "Y\n"); },
     "zswap is on", "switch it off", nullptr},
    {"daemon.running", [](Host& h) { h.running = false; }, "", "",
     [](Host& h) { h.running = true; }},
    {"daemon.config",
     [](Host& h) {
       h.daemon.host.reasons.push_back({"config", "r.toml:3: fold.when: \"x\"", "mend the file"});
     },
     "r.toml:3", "mend the file", [](Host& h) { h.daemon.host.reasons.clear(); }},
    {"daemon.config",
     [](Host& h) {
       h.daemon.host.notices.push_back(
           {"vm-override", "r.toml:7: [[vm]] 'web': group does not hold", "mend the file"});
     },
     "r.toml:7", "mend the file", [](Host& h) { h.daemon.host.notices.clear(); }},
    {"daemon.config",
     [](Host& h) {
       h.daemon.host.notices.push_back({"policy", "scan.cpu: it does not hold", "set another"});
     },
     "scan.cpu", "set another", [](Host& h) { h.daemon.host.notices.clear(); }},
    {"daemon.state",
     [](Host& h) { h.daemon.host.notices.push_back({"state", "disk full", "free room"}); },
     "disk full", "free room", [](Host& h) { h.daemon.host.notices.clear(); }},
    {"daemon.keeper", [](Host& h) { h.daemon.host.keeper.state = control::KeeperState::absent; },
     "no keeper", "start it",
     [](Host& h) { h.daemon.host.keeper.state = control::KeeperState::connected; }},
    {"daemon.self_test",
     [](Host& h) {
       h.daemon.host.self_test.push_back(
           {"punch", control::CheckOutcome::failed, "the page was still there", ""});
     },
     "still there", "another kernel",
     [](Host& h) { h.daemon.host.self_test.back().outcome = control::CheckOutcome::passed; }},
    {"daemon.pin_test",
     [](Host& h) {
       h.daemon.host.reasons.push_back(
           {"no-pin-test", "the kernel cannot be asked: it is locked down", "lockdown=integrity"});
     },
     "locked down", "lockdown=integrity", [](Host& h) { h.daemon.host.reasons.clear(); }},
    {"daemon.referenced",
     [](Host& h) {
       h.daemon.host.notices.push_back(
           {"referenced", "scan.referenced = \"page_idle\" cannot be used", "set \"auto\""});
     },
     "page_idle", "auto", [](Host& h) { h.daemon.host.notices.clear(); }},
    of_host("unusable-vm", "vm 3 cannot be served", "end that VM"),
    of_host("not-recovered", "the indexes cannot be rebuilt", "free memory"),
    of_host("meminfo", "/proc/meminfo cannot be read", "mounted"),
    of_host("promise", "memory would not suffice", "add memory"),
    of_host("store-full", "the store has no room", "raise host.arena_max"),
    of_host("recovering", "the indexes are being rebuilt", "wait"),
    of_host("off", "switched off", "resume"),
    of_host("paused", "paused by the operator", "resume"),
    {"daemon.files",
     [](Host& h) { h.tree.write("proc/50/limits", "Max open files   1024   524288   files\n"); },
     "1024", "LimitNOFILE", nullptr},
    {"vm.command",
     [](Host& h) { h.arguments({"/usr/bin/qemu-system-x86_64", "-name", "web", "-m", "1G"}); },
     "not a memory-backend-memfd", "memory-backend-memfd,id=ram0", good_arguments},
    {"vm.command", more_arguments({"-device", "vfio-pci,host=01:00.0"}), "vfio-pci", "virtio",
     good_arguments},
    {"vm.command", more_arguments({"-netdev", "vhost-user,id=n,chardev=c"}), "another process",
     "tap", more_arguments({"-netdev", "tap,id=n"})},
    {"vm.command", more_arguments({"-overcommit", "mem-lock=on"}), "locked", "mem-lock",
     good_arguments},
    {"vm.agent", [](Host& h) { h.tree.write("proc/101/maps", "1-2 r--p 0 0:0 0\n"); },
     "without the agent", "ramfold exec", [](Host& h) { write_many_maps(h, 0); }},
    {"vm.agent",
     [](Host& h) {
       without_agent(h);
       h.tree.write("proc/101/exe", elf_program(""));
     },
     "linked statically", "linked dynamically", [](Host& h) { write_many_maps(h, 0); }},
    {"vm.agent",
     [](Host& h) {
       without_agent(h);
       h.tree.write("proc/101/exe", elf_program("/lib/ld-musl-x86_64.so.1"));
     },
     "musl", "glibc", [](Host& h) { write_many_maps(h, 0); }},
    {"vm.agent",
     [](Host& h) {
       without_agent(h);
       h.tree.write("proc/101/exe", elf_program("/lib64/ld-linux-x86-64.so.2"));
       std::filesystem::permissions(h.tree / "proc/101/exe", std::filesystem::perms::set_uid,
                                    std::filesystem::perm_options::add);
       h.tree.write("proc/101/auxv", auxv(1));
     },
     "setuid", "chmod u-s", [](Host& h) { write_many_maps(h, 0); }},
    {"vm.agent",
     [](Host& h) {
       without_agent(h);
       h.tree.write("proc/101/auxv", auxv(1));
     },
     "ignore LD_PRELOAD", "SELinux", [](Host& h) { write_many_maps(h, 0); }},
    {"vm.agent",
     [](Host& h) {
       without_agent(h);
       h.tree.write("proc/101/auxv", auxv(0));
       h.tree.write("proc/101/environ", cmdline({"A=b", "LD_PRELOAD=/x/libramfold-agent.so"}));
     },
     "could not load it", "must be able to read", [](Host& h) { write_many_maps(h, 0); }},
    {"vm.group", [](Host& h) { h.member(false); }, "libvirt-qemu, is not in the group ",
     "usermod -aG ", [](Host& h) { h.member(); }},
    {"vm.group", [](Host& h) { ::chmod((h.tree / "run/ramfold/agent.sock").c_str(), 0600); },
     "only root may use /run/ramfold/agent.sock", "groupadd --system kvm",
     [](Host& h) { ::chmod((h.tree / "run/ramfold/agent.sock").c_str(), 0660); }},
    {"vm.cgroup",
     [](Host& h) {
       h.tree.write("sys/fs/cgroup/machine.slice/web.scope/memory.max", "1073741824\n");
     },
     "may kill it", "memtune web", nullptr},
    {"vm.cgroup",
     [](Host& h) {
       h.tree.write("sys/fs/cgroup/machine.slice/web.scope/memory.high", "1073741824\n");
     },
     "(memory.high), its RAM alone has 1.0 GiB: when folded pages come back the kernel holds it up",
     "memtune web --soft-limit", nullptr},
    {"vm.cgroup",
     [](Host& h) {
       more_arguments(
           {"-object", "memory-backend-memfd,id=d,size=2G", "-device", "pc-dimm,memdev=d"})(h);
       h.tree.write("sys/fs/cgroup/machine.slice/web.scope/memory.max", "2147483648\n");
     },
     "its RAM alone has 3.0 GiB", "memtune web --hard-limit", nullptr},
    {"vm.cgroup",
     [](Host& h) { h.tree.write("sys/fs/cgroup/machine.slice/memory.max", "900000000\n"); },
     "may kill it", "allow at least 1.2 GiB", nullptr},
    {"vm.cgroup",
     [](Host& h) {
       h.tree.write("proc/101/cgroup", "5:cpu:/\n4:memory:/web\n");
       h.tree.write("sys/fs/cgroup/memory/web/memory.limit_in_bytes", "1000\n");
     },
     "may kill it", "allow at least", nullptr},
    {"vm.mappings",
     [](Host& h) {
       h.tree.write("proc/sys/vm/max_map_count", "65530\n");
       write_many_maps(h, 60'000);
     },
     "60001 of 65530", "raise the limit", nullptr},
    {"vm.map",
     [](Host& h) {
       h.daemon.vms[0].notices = {{"no-mapping", "QEMU runs as root", "run QEMU as another user"}};
     },
     "QEMU runs as root", "another user", [](Host& h) { h.daemon.vms[0].notices.clear(); }},
    not_folded(control::VmState::observe_only, "other_mapper"),
    not_folded(control::VmState::observe_only, "unknown_descriptor"),
    not_folded(control::VmState::observe_only, "large_folios"),
    not_folded(control::VmState::observe_only, "agent_incomplete"),
    not_folded(control::VmState::observe_only, "incoming_migration"),
    not_folded(control::VmState::observe_only, "other_userfaultfd"),
    not_folded(control::VmState::observe_only, "owner-share"),
    not_folded(control::VmState::failed, "lost_pages"),
    not_folded(control::VmState::connected, "refused"),
    not_folded(control::VmState::folding, "held-up"),
    not_folded(control::VmState::folding, "quota"),
};

}  // namespace

TEST_CASE("a good host passes every check, and every check looked at it") {
  const Host host;
  const auto checks = host.checks();
  std::set<std::string_view> seen;
  for (const Check& check : checks) {
    INFO(check.id << ": " << check.text);
    CHECK(check.outcome == Outcome::pass);
    CHECK_FALSE(check.text.empty());
    CHECK(check.remedy.empty());
    seen.insert(check.id);
  }
  CHECK(seen == std::set<std::string_view>(kChecks.begin(), kChecks.end()));
  CHECK_FALSE(found_problems(checks));
}

TEST_CASE("every check has a host where it fails, and its remedy makes it pass") {
  std::set<std::string_view> covered;
  for (const Fixture& fixture : kFixtures) {
    INFO(fixture.id << ": " << fixture.text);
    covered.insert(fixture.id);
    Host host;
    fixture.spoil(host);
    const auto checks = failed(host, fixture.id);
    REQUIRE(checks.size() == 1);
    CHECK(checks[0].text.find(fixture.text) != std::string::npos);
    CHECK(checks[0].remedy.find(fixture.remedy) != std::string::npos);
    if (fixture.follow) {
      fixture.follow(host);
    } else {
      REQUIRE_FALSE(checks[0].commands.empty());
      for (const std::string& command : checks[0].commands) {
        INFO(command);
        REQUIRE(apply_command(host, command));
      }
    }
    CHECK(failed(host, fixture.id).empty());
    for (const Check& check : host.checks()) {
      INFO("afterwards " << check.id << ": " << check.text);
      CHECK(check.outcome == Outcome::pass);
    }
  }
  CHECK(covered == std::set<std::string_view>(kChecks.begin(), kChecks.end()));
}

TEST_CASE("the socket that QEMU's agent was told of is the one that is judged") {
  Host host;
  host.tree.write("run/other.sock", "");
  ::chmod((host.tree / "run/other.sock").c_str(), 0600);
  host.tree.write("proc/101/environ", std::string("RAMFOLD_AGENT_SOCKET=/run/other.sock\0", 37));
  const auto checks = failed(host, "vm.group");
  REQUIRE(checks.size() == 1);
  CHECK(checks[0].text.find("/run/other.sock") != std::string::npos);
  host.tree.write("proc/101/status", "Uid:\t0\t0\t0\t0\nGid:\t0\t0\t0\t0\nGroups:\t\n");
  CHECK(failed(host, "vm.group").empty());
}

TEST_CASE("advise is good enough for large pages") {
  Host host;
  host.tree.write(std::string(kThp) + "shmem_enabled", "always within_size [advise] never\n");
  CHECK(failed(host, "memory.hugepages").empty());
}

TEST_CASE("information alone is no problem") {
  Host host;
  host.tree.write("proc/sys/vm/unprivileged_userfaultfd", "1\n");
  CHECK_FALSE(found_problems(host.checks()));
  host.tree.write("sys/kernel/mm/ksm/run", "1\n");
  CHECK(found_problems(host.checks()));
}

TEST_CASE("an empty tree is unknown, not wrong, and ends") {
  const TempDir tree;
  const HostFiles files(tree.path());
  for (const Check& check : check_host(files)) {
    INFO(check.id);
    CHECK((check.outcome == Outcome::unknown || check.outcome == Outcome::pass ||
           check.id == "kernel.userfaultfd"));
  }
  CHECK(check_vms(files).empty());
}

TEST_CASE("the report shows what failed, with remedy and commands; --all shows the rest") {
  Host host;
  host.tree.write("sys/kernel/mm/ksm/run", "1\n");
  const auto checks = host.checks();
  const std::string report = render_checks(checks, Detail::failed_only, Style(false));
  CHECK(report.find("warning  memory.ksm") != std::string::npos);
  CHECK(report.find("# echo 0 > /sys/kernel/mm/ksm/run") != std::string::npos);
  CHECK(report.find("kernel.fold") == std::string::npos);
  CHECK(report.find("1 did not") != std::string::npos);
  CHECK(render_checks(checks, Detail::all, Style(false)).find("kernel.fold") != std::string::npos);
  const auto json = nlohmann::json::parse(json_of(checks));
  CHECK(json["ok"] == false);
  CHECK(json["checks"].size() == checks.size());
}

TEST_CASE("a cgroup path that leads nowhere ends") {
  Host host;
  std::string path;
  for (int i = 0; i < 5000; ++i) path += "/x";
  host.tree.write("proc/101/cgroup", "0::" + path + "\n0::\nnonsense\n:::::\n");
  CHECK(failed(host, "vm.cgroup").empty());
}
