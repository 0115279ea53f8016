// SPDX-License-Identifier: GPL-2.0-or-later
// The command itself, as a process: exit status, output, environment.
#include <sys/stat.h>
#include <sys/xattr.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <iterator>
#include <nlohmann/json.hpp>
#include <sstream>

#include "../control/fake_service.hpp"
#include "../temp_dir.hpp"
#include "cli/exec.hpp"
#include "cli/host_files.hpp"
#include "cli/program_file.hpp"
#include "cli/qemu_command.hpp"
#include "control/server.hpp"
#include "spawn.hpp"

using namespace ramfold;
using namespace ramfold::cli;
using control::FakeService;
using control::Server;
using control::Snapshot;
using control::VmState;
using nlohmann::json;

namespace {

std::string binary(const char* variable) {
  const char* path = std::getenv(variable);
  if (path == nullptr) throw std::runtime_error(variable);
  return path;
}
bool has(const std::string& text, std::string_view part) {
  return text.find(part) != std::string::npos;
}

struct Host {
  Host()
      : server(
            Server::start({dir / "control.sock", "no-such-group", [](std::string_view) {}}, service)
                .value()) {}
  Ran run(std::vector<std::string> arguments,
          const std::function<bool(const Ran&)>& enough = nullptr) const {
    arguments.insert(arguments.begin(), binary("RAMFOLD_BIN"));
    return spawn(arguments, {"RAMFOLD_SOCKET=" + (dir / "control.sock"), "LANG=C.UTF-8"}, enough);
  }
  TempDir dir;
  FakeService service;
  std::unique_ptr<Server> server;
};

}  // namespace

TEST_CASE("status and list, as text and as JSON") {
  const Host host;
  const Ran status = host.run({"status"});
  CHECK(status.status == 0);
  CHECK(status.err.empty());
  CHECK(has(status.out, "ramfold 0.1.0 on Linux 6.18.0: folding"));
  CHECK_FALSE(has(status.out, "\x1b"));  // not a terminal
  CHECK(json::parse(host.run({"status", "--json"}).out)["host"]["contents"] == 8100);
  const Ran list = host.run({"list"});
  CHECK(has(list.out, "why: the VM's RAM is locked in memory"));
  CHECK(json::parse(host.run({"list", "--json"}).out)["vms"].size() == 3);
}

TEST_CASE("show by id, pid, name and uuid; no such VM fails with a remedy") {
  const Host host;
  for (const char* vm : {"1", "4001", "web", "8d1b3a54-6c2e-4f0a-9b7d-0c5e2f1a3b41"}) {
    const Ran show = host.run({"show", vm});
    CHECK(show.status == 0);
    CHECK(has(show.out, "VM web (1)"));
  }
  CHECK(json::parse(host.run({"show", "web", "--json"}).out)["vm"]["pid"] == 4001);
  const Ran none = host.run({"show", "none"});
  CHECK(none.status == 1);
  CHECK(none.out.empty());
  CHECK(has(none.err, "there is no VM 'none'"));
  CHECK(has(none.err, "remedy: ramfold list"));
  const Ran none_json = host.run({"show", "none", "--json"});
  CHECK(none_json.status == 1);
  CHECK(json::parse(none_json.out)["error"]["failure"] == "not-found");
}

TEST_CASE("status and show tell all counters, one a line, as plain numbers") {
  const Host host;
  const Ran status = host.run({"status", "--counters"});
  CHECK(status.status == 0);
  CHECK(status.out ==
        "COUNTER                  VALUE\n"
        "folds_zero            23456789\n"
        "store_hash_collisions        2\n");
  const Ran show = host.run({"show", "web", "--counters"});
  CHECK(show.status == 0);
  CHECK(has(show.out, "folds_zero  12345678\n"));
  CHECK(json::parse(host.run({"show", "web", "--json"}).out)["vm"]["counters"]["faults_late"] == 3);
  CHECK(host.run({"status", "--counters", "--json"}).status == 2);
}

TEST_CASE("detach tells its plan, and attach takes the VM back") {
  Host host;
  const Ran dry = host.run({"detach", "web", "--dry-run"});
  CHECK(dry.status == 0);
  CHECK(has(dry.out,
            "detach web: 38,000 pages come back; 148 MiB needed, 5.0 GiB available, about 1.5 s"));
  CHECK(host.service.snapshot().vms[0].state == VmState::folding);
  CHECK(host.run({"detach", "web"}).status == 0);
  CHECK(host.service.snapshot().vms[0].state == VmState::detached);
  CHECK(host.run({"attach", "web"}).status == 0);
  CHECK(host.service.snapshot().vms[0].state == VmState::folding);
  CHECK(host.run({"attach", "web"}).status == 1);
  const auto answer = json::parse(host.run({"detach", "web", "--json"}).out);
  CHECK(answer["done"] == true);
  CHECK(answer["plan"]["missing_bytes"] == 0);
}

TEST_CASE("off is refused with its own status when memory does not suffice") {
  Host host;
  host.service.available = ByteCount{100'000'000};
  const Ran off = host.run({"off"});
  CHECK(off.status == 4);
  CHECK(has(off.out, "148 MiB needed, 95.4 MiB available"));
  CHECK(has(off.err, "missing: 53.1 MiB"));
  CHECK(has(off.err, "remedy: "));
  CHECK(host.run({"off", "--json"}).status == 4);
  host.service.available = ByteCount{5ull << 30};
  CHECK(host.run({"off"}).status == 0);
  CHECK(host.service.snapshot().host.state == control::HostState::off);
}

TEST_CASE("pause and resume") {
  Host host;
  CHECK(host.run({"pause"}).status == 0);
  CHECK(host.service.snapshot().host.state == control::HostState::paused);
  CHECK(host.run({"resume", "--json"}).out == "{\n  \"done\": true\n}\n");
  CHECK(host.run({"pause", "web"}).status == 0);
  CHECK(host.service.snapshot().vms[0].state == VmState::paused);
}

TEST_CASE("policy get and set, of the host and of a VM") {
  const Host host;
  const Ran get = host.run({"policy", "get"});
  CHECK(get.status == 0);
  CHECK(has(get.out, "fold.lz4    true         default at once\n"));
  CHECK(has(get.out, "runtime_dir /run/ramfold file    at the next start: /run/mine\n"));
  CHECK(json::parse(host.run({"policy", "get", "web", "--json"}).out)["policy"]["keys"][0]["key"] ==
        "lz4");
  const Ran set = host.run({"policy", "set", "fold.lz4=false"});
  CHECK(set.status == 0);
  CHECK(has(set.out, "fold.lz4 false set  at once\n"));
  CHECK_FALSE(has(set.out, "runtime_dir"));
  CHECK(has(host.run({"policy", "set", "web", "lz4="}).out, "lz4 true  default at once\n"));
  const Ran wrong = host.run({"policy", "set", "lz5=false"});
  CHECK(wrong.status == 1);
  CHECK(has(wrong.err, "ramfold: lz5=false: unknown key\n  remedy: did you mean lz4?\n"));
  CHECK(host.run({"policy", "set", "web"}).status == 2);
  CHECK(host.run({"policy"}).status == 2);
  CHECK(has(host.run({"policy", "gte"}).err, "ramfold policy: unknown command 'gte'"));
  CHECK(
      has(host.run({"policy", "get", "--jsn"}).err, "ramfold policy get: unknown option '--jsn'"));
}

TEST_CASE("--watch goes on, one JSON line a look") {
  const Host host;
  const Ran watch = host.run({"list", "--json", "--watch", "0.1"}, [](const Ran& ran) {
    return std::count(ran.out.begin(), ran.out.end(), '\n') >= 2;
  });
  CHECK(watch.status == -SIGINT);
  REQUIRE(std::count(watch.out.begin(), watch.out.end(), '\n') >= 2);
  CHECK(json::parse(watch.out.substr(0, watch.out.find('\n')))["vms"].size() == 3);
}

TEST_CASE("--watch without a number looks every two seconds") {
  Host host;
  const Ran plain = host.run({"status", "--watch"}, [](const Ran& ran) {
    return ran.out.find("ramfold 0.1.0") != ran.out.rfind("ramfold 0.1.0");
  });
  CHECK(plain.status == -SIGINT);
  CHECK(std::count(plain.out.begin(), plain.out.end(), ':') > 0);
  // The command sleeps from one answer to the next request, so a slow machine only adds to this.
  const std::vector<std::uint64_t> looks = host.service.looks_ns();
  REQUIRE(looks.size() >= 2);
  CHECK(looks[1] - looks[0] >= 2'000'000'000);
}

TEST_CASE("without a daemon the status is 3 and the remedy says how to start it") {
  Host host;
  host.server.reset();
  for (const std::vector<std::string>& command :
       {std::vector<std::string>{"status"}, {"list"}, {"show", "x"}, {"off"}, {"pause"}}) {
    const Ran ran = host.run(command);
    CHECK(ran.status == 3);
    CHECK(has(ran.err, "systemctl start ramfold"));
  }
  CHECK(host.run({"status", "--socket", "/proc/none/x"}).status == 3);
}

TEST_CASE("wrong usage is status 2, help and version are 0") {
  const Host host;
  for (const std::vector<std::string>& command : {std::vector<std::string>{},
                                                  {"frob"},
                                                  {"show"},
                                                  {"detach"},
                                                  {"status", "--frob"},
                                                  {"list", "--watch", "0"},
                                                  {"exec"},
                                                  {"exec", "--"},
                                                  {"exec", "--frob"}}) {
    CHECK(host.run(command).status == 2);
  }
  for (const std::vector<std::string>& command : {std::vector<std::string>{"--help"},
                                                  {"list", "--help"},
                                                  {"exec", "--help"},
                                                  {"--version"}}) {
    CHECK(host.run(command).status == 0);
  }
}

TEST_CASE("help fits 80 columns") {
  for (const char* command :
       {"", "status", "list", "top", "show", "attach", "detach", "off", "pause", "resume", "policy",
        "policy get", "policy set", "doctor", "estimate", "exec"}) {
    std::istringstream in(command);
    std::vector<std::string> words{std::istream_iterator<std::string>(in), {}};
    words.insert(words.begin(), binary("RAMFOLD_BIN"));
    words.emplace_back("--help");
    const Ran ran = spawn(words, {"LANG=C.UTF-8"});
    CHECK(ran.status == 0);
    std::istringstream lines(ran.out + ran.err);
    for (std::string line; std::getline(lines, line);) {
      INFO(command << ": " << line);
      CHECK(line.size() <= 80);
    }
  }
}

TEST_CASE("an unknown word is named, with what may have been meant") {
  const Host host;
  const auto complaint = [&](const std::vector<std::string>& words) {
    const Ran ran = host.run(words);
    CHECK(ran.status == 2);
    CHECK(ran.out.empty());
    return ran.err;
  };
  CHECK(complaint({"lsit"}) ==
        "ramfold: unknown command 'lsit'; did you mean 'list'?\nSee `ramfold --help`.\n");
  CHECK(has(complaint({"frob"}), "unknown command 'frob'\n"));
  CHECK(complaint({"status", "--jsno"}) ==
        "ramfold status: unknown option '--jsno'; did you mean '--json'?\n"
        "See `ramfold status --help`.\n");
  CHECK(has(complaint({"list", "web"}), "ramfold list: unknown argument 'web'\n"));
  CHECK(has(complaint({"\x1b[2J"}), "unknown command '?[2J'"));
  CHECK(has(complaint({"list", "-o", "NAM"}), "unknown column 'NAM'; did you mean 'NAME'?"));
}

TEST_CASE("list in the columns that are asked for") {
  const Host host;
  CHECK(host.run({"list", "-no", "NAME,PID", "--raw"}).out == "web 4001\ndb 4002\nidle 4003\n");
  CHECK(has(host.run({"list", "--output-all"}).out, "COMPRESSED"));
  CHECK(has(host.run({"list", "--help"}).out, "RESIDENT* in memory now"));
  CHECK(host.run({"list", "--output-all", "-o", "ID"}).status == 2);
}

TEST_CASE("$COLUMNS says how wide lines may be, where there is no terminal") {
  const Host host;
  const Ran narrow = spawn({binary("RAMFOLD_BIN"), "status"},
                           {"RAMFOLD_SOCKET=" + (host.dir / "control.sock"), "COLUMNS=60"});
  CHECK(has(narrow.out, "promise   "));
  std::size_t longest = 0;
  for (std::size_t at = 0; at < narrow.out.size();) {
    const std::size_t end = narrow.out.find('\n', at);
    longest = std::max(longest, end - at);
    at = end + 1;
  }
  CHECK(longest <= 60);
}

TEST_CASE("doctor of a user without rights says that it cannot look") {
  if (::geteuid() != 0) return;
  const Host host;
  // nobody, with no capability; a path that others may not enter would prove nothing.
  const Ran ran = spawn({"/usr/bin/setpriv", "--reuid=65534", "--regid=65534", "--clear-groups",
                         "--inh-caps=-all", binary("RAMFOLD_BIN"), "doctor"},
                        {"RAMFOLD_SOCKET=" + (host.dir / "control.sock")});
  INFO(ran.out << ran.err);
  CHECK(has(ran.out, "doctor.rights"));
  CHECK(has(ran.out, "run `ramfold doctor` as root"));
  CHECK(has(ran.out, "could not look"));
  const Ran root = host.run({"doctor", "--all"});
  CHECK(has(root.out, "this user may look at every process"));
}

TEST_CASE("doctor: a host with problems is status 5") {
  Host host;
  TempDir tree;
  const Ran bad = host.run({"doctor", "--root", tree.path()});
  CHECK(bad.status == 5);
  CHECK(has(bad.out, "the kernel has no /dev/userfaultfd"));
  const auto report = json::parse(host.run({"doctor", "--json", "--root", tree.path()}).out);
  CHECK(report["ok"] == false);
}

TEST_CASE("doctor: a good tree with a daemon in it is status 0") {
  TempDir tree;
  tree.write("proc/sys/kernel/osrelease", "6.18.0\n");
  tree.write("dev/userfaultfd", "");
  tree.write("run/ramfold/x", "");
  FakeService service;
  service.change([](Snapshot& s) {
    std::erase_if(s.vms, [](const auto& vm) { return vm.gate == control::GateState::closed; });
  });
  const auto server = Server::start(
      {tree / "run/ramfold/control.sock", "no-such-group", [](std::string_view) {}}, service);
  const Ran good = spawn({binary("RAMFOLD_BIN"), "doctor", "--all", "--root", tree.path()}, {});
  INFO(good.out);
  CHECK(good.status == 0);
  CHECK(has(good.out, "the daemon answers: folding"));
}

TEST_CASE("exec starts the program with the agent loaded and its arguments untouched") {
  const TempDir dir;
  dir.write("agent.so", "");
  const std::string agent = dir / "agent.so";
  const Ran ran = spawn({binary("RAMFOLD_BIN"), "exec", "--agent-socket", "/run/x.sock", "--",
                         binary("RAMFOLD_SHOW_ARGS"), "-a", "--json", "two words", "--", ""},
                        {"RAMFOLD_AGENT_LIB=" + agent, "KEPT=1"});
  CHECK(ran.status == 7);
  // (The loader complains that agent.so is no library; QEMU would start all the same.)
  CHECK(has(ran.out, "arg 1 <-a>\narg 2 <--json>\narg 3 <two words>\narg 4 <-->\narg 5 <>\n"));
  CHECK(has(ran.out, "LD_PRELOAD <" + agent + ">"));
  CHECK(has(ran.out, "RAMFOLD_AGENT_SOCKET </run/x.sock>"));
  CHECK(has(ran.out, "KEPT <1>"));
}

TEST_CASE("exec keeps an LD_PRELOAD that was there, and does not add the agent twice") {
  CHECK(preload_with("/a.so", "") == "/a.so");
  CHECK(preload_with("/a.so", "/b.so /c.so") == "/a.so:/b.so /c.so");
  CHECK(preload_with("/a.so", "/b.so:/a.so") == "/b.so:/a.so");
  CHECK(preload_with("/a.so", "/a.so.1") == "/a.so:/a.so.1");
}

TEST_CASE("exec starts the program whatever is wrong with the agent") {
  const Ran missing = spawn({binary("RAMFOLD_BIN"), "exec", binary("RAMFOLD_SHOW_ARGS"), "x"},
                            {"RAMFOLD_AGENT_LIB=/nonexistent/agent.so"});
  CHECK(missing.status == 7);
  CHECK(has(missing.err, "starts without the agent"));
  CHECK(std::count(missing.err.begin(), missing.err.end(), '\n') == 1);
  const TempDir dir;
  dir.write("with blank/agent.so", "");
  const Ran blank = spawn({binary("RAMFOLD_BIN"), "exec", binary("RAMFOLD_SHOW_ARGS")},
                          {"RAMFOLD_AGENT_LIB=" + (dir / "with blank/agent.so")});
  CHECK(blank.status == 7);
  CHECK(has(blank.err, "blank or colon"));
}

TEST_CASE("exec warns of a QEMU that can only be observed, in one line, and starts it") {
  const TempDir dir;
  std::filesystem::copy_file(binary("RAMFOLD_SHOW_ARGS"), dir / "qemu-system-x86_64");
  dir.write("agent.so", "");
  const std::vector<std::string> environment{"RAMFOLD_AGENT_LIB=" + (dir / "agent.so")};
  const auto lines_of_ours = [](const std::string& text) {
    std::size_t count = 0;
    for (std::size_t at = 0; (at = text.find("ramfold: ", at)) != std::string::npos; ++at) ++count;
    return count;
  };
  const Ran bad = spawn({binary("RAMFOLD_BIN"), "exec", "--", dir / "qemu-system-x86_64", "-m",
                         "1G", "-overcommit", "mem-lock=on"},
                        environment);
  CHECK(bad.status == 7);
  CHECK(has(bad.err, "this VM will only be observed: RAM is not a memory-backend-memfd"));
  CHECK(has(bad.err, "(+1 more: `ramfold doctor`)"));
  CHECK(lines_of_ours(bad.err) == 1);
  const auto with_config = [&](const std::string& path) {
    return spawn(
        {binary("RAMFOLD_BIN"), "exec", "--", dir / "qemu-system-x86_64", "-readconfig", path},
        environment);
  };
  const Ran unread = with_config(dir / "missing.conf");
  CHECK(has(unread.err, "whether this VM can be folded is not known"));
  CHECK(has(unread.err, "missing.conf: not found: No such file or directory"));
  CHECK(lines_of_ours(unread.err) == 1);
  dir.write("vm.conf",
            "[object \"r\"]\nqom-type = \"memory-backend-file\"\nsize = \"1G\"\n"
            "[machine]\nmemory-backend = \"r\"\n");
  CHECK(has(with_config(dir / "vm.conf").err, "RAM 'r' is a memory-backend-file"));
  const Ran probe =
      spawn({binary("RAMFOLD_BIN"), "exec", "--", dir / "qemu-system-x86_64", "-machine", "none"},
            environment);
  CHECK(lines_of_ours(probe.err) == 0);
}

TEST_CASE("exec says in one line why the agent will not be loaded, and starts the program") {
  const TempDir dir;
  dir.write("agent.so", "");
  const std::vector<std::string> environment{"RAMFOLD_AGENT_LIB=" + (dir / "agent.so")};
  const auto starts = [&](const std::string& program, std::string_view why) {
    const Ran ran = spawn({binary("RAMFOLD_BIN"), "exec", "--", program, "-m", "1G"}, environment);
    INFO(ran.err);
    CHECK(ran.status == 7);
    CHECK(has(ran.err, "starts without the agent: "));
    CHECK(has(ran.err, why));
    CHECK(std::count(ran.err.begin(), ran.err.end(), '\n') == 1);
    CHECK_FALSE(has(ran.out, "LD_PRELOAD"));
  };
  const std::string qemu = dir / "qemu-system-x86_64";
  std::filesystem::copy_file(binary("RAMFOLD_SHOW_ARGS_STATIC"), qemu);
  starts(qemu, "it is linked statically");
  std::filesystem::remove(qemu);
  std::filesystem::copy_file(binary("RAMFOLD_SHOW_ARGS"), qemu);
  if (::getuid() != 0) return;
  // Another user's setuid file: the loader of a set-user-ID program ignores LD_PRELOAD.
  REQUIRE(::chown(qemu.c_str(), 65534, 65534) == 0);
  REQUIRE(::chmod(qemu.c_str(), 04755) == 0);
  std::filesystem::permissions(dir.path(), std::filesystem::perms(0755));
  starts(qemu, "setuid or setgid");
}

TEST_CASE("a file's capabilities keep the agent out of a QEMU of another user, not of root") {
  const TempDir dir;
  dir.write("plain", "");
  CHECK_FALSE(has_rights(dir / "plain", "q"));
  CHECK_FALSE(cannot_load(dir / "plain"));  // a script, or nothing at all: execvp will tell
  CHECK_FALSE(cannot_load(dir / "missing"));
  CHECK_FALSE(cannot_load("/proc/self/exe"));
  const std::uint32_t cap_net_admin[] = {0x02000001, 1u << 12, 0, 0, 0};
  if (::setxattr((dir / "plain").c_str(), "security.capability", cap_net_admin,
                 sizeof cap_net_admin, 0) != 0) {
    return;  // not allowed here
  }
  const auto rights = has_rights(dir / "plain", "/usr/bin/qemu-kvm");
  REQUIRE(rights);
  CHECK(has(rights->why, "capabilities"));
  CHECK(has(rights->remedy, "setcap -r /usr/bin/qemu-kvm"));
  if (::getuid() != 0) return;
  // As the loader sees it: nobody gets the capability, root has it already.
  std::filesystem::permissions(dir.path(), std::filesystem::perms(0755));
  const std::string ramfold = dir / "ramfold";
  const std::string qemu = dir / "qemu-kvm";
  std::filesystem::copy_file(binary("RAMFOLD_BIN"), ramfold);
  std::filesystem::copy_file(binary("RAMFOLD_SHOW_ARGS"), qemu);
  REQUIRE(::setxattr(qemu.c_str(), "security.capability", cap_net_admin, sizeof cap_net_admin, 0) ==
          0);
  dir.write("agent.so", "");
  const std::vector<std::string> environment{"RAMFOLD_AGENT_LIB=" + (dir / "agent.so")};
  const Ran as_nobody = spawn({"/usr/bin/setpriv", "--reuid", "65534", "--regid", "65534",
                               "--clear-groups", ramfold, "exec", qemu},
                              environment);
  CHECK(as_nobody.status == 7);
  CHECK(has(as_nobody.err, "starts without the agent: its file has capabilities"));
  const Ran as_root = spawn({ramfold, "exec", qemu}, environment);
  CHECK(as_root.status == 7);
  CHECK(has(as_root.out, "LD_PRELOAD"));
}

TEST_CASE("list shows a QEMU that has no agent") {
  const Host host;
  const std::string program = host.dir / "qemu-kvm";
  std::filesystem::copy_file("/bin/sleep", program);
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    ::execl(program.c_str(), program.c_str(), "60", nullptr);
    ::_exit(99);
  }
  const std::string pid = std::to_string(child);
  while (!has(HostFiles("").link_of(child, "exe"), "qemu-kvm")) ::usleep(1000);
  const Ran list = host.run({"list"});
  CHECK(list.status == 0);
  CHECK(has(list.out, "  pid " + pid + "\n    why: RAM is not a memory-backend-memfd"));
  const auto others = json::parse(host.run({"list", "--json"}).out)["unattached"];
  CHECK(std::ranges::any_of(others, [&](const json& one) { return one["pid"] == child; }));
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
}

TEST_CASE("exec's own failures are 126 and 127, as env's") {
  CHECK(spawn({binary("RAMFOLD_BIN"), "exec", "--", "/nonexistent/qemu"}, {}).status == 127);
  CHECK(spawn({binary("RAMFOLD_BIN"), "exec", "--", "/"}, {}).status == 126);
}
