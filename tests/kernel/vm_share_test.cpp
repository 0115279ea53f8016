// SPDX-License-Identifier: GPL-2.0-or-later
// The share of VMs that one user may have (src/daemon/agents): real agents of two users at the
// agents' socket of this process. The VMs that the first user has already are one VM without a
// process, counted many times.
#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <sstream>

#include "base/owner_share.hpp"
#include "daemon/agents/agents.hpp"
#include "daemon/judge/others_watch.hpp"
#include "daemon/threads/apart.hpp"
#include "kernel/fold_rig.hpp"
#include "patience.hpp"
#include "unit/bare_vm.hpp"
#include "unit/temp_dir.hpp"

using namespace ramfold;
using namespace ramfold::daemon;
using test::soon;

namespace {

constexpr uid_t kFirstUser = 3'000'001;  // as crowd_guest has them
constexpr uid_t kSecondUser = kFirstUser + 1;
constexpr std::uint32_t kFirstNumber = 100;  // of VMs that are attached before

class Events final : public AgentEvents {
 public:
  bool wanted(const WaitingAgent&) override { return true; }
  void agent_ready(const VmHandle&) override {}
  void fenced(const VmHandle&) override {}
  void look_again(const VmHandle&) override {}
  void unfold_wanted(const VmHandle&, std::uint32_t, std::uint32_t) override {}
  void attached(const VmHandle&) override {}
  bool forget_unused(const VmHandle&) override { return false; }
};

struct Daemon {
  TempDir dir;
  std::unique_ptr<store::Contents> contents =
      std::move(*store::Contents::create(ByteCount{1u << 20}));
  policy::Current config{policy::Config{}};
  Decisions decisions{dir.path(), "boot"};
  std::shared_ptr<fault::Pool> fault_pool = test::Rig::fault_pool();
  Adopter adopter{*contents, config, decisions, fault_pool};
  Attacher attacher{adopter, sys::Uffd::kFeaturesNeeded};
  VmSet vms;
  Events events;
  const sys::Procfs procfs;
  std::unique_ptr<Agents> agents;

  Daemon() {
    REQUIRE(::chmod(dir.path().c_str(), 0755) == 0);  // other users' agents knock
    REQUIRE(fault_pool->begin().has_value());
    sys::Fd device(::open("/dev/userfaultfd", O_RDWR | O_CLOEXEC));
    if (!device) {
      std::puts("no /dev/userfaultfd here");
      std::exit(77);
    }
    auto made = Agents::make(socket(), "root", 1, std::move(device), procfs, vms, attacher, events);
    REQUIRE(made.has_value());
    agents = std::move(*made);
    REQUIRE(agents->begin().has_value());
  }
  ~Daemon() {
    agents->stop();
    for (const VmHandle& vm : vms.all()) vms.remove(vm->vm->id());
    (void)soon([] { return count_apart() == 0; });  // errands refer to this
  }
  std::string socket() const { return dir / "agent.sock"; }
  std::uint64_t of(uid_t uid) const {
    const auto all = vms.all();
    return static_cast<std::uint64_t>(std::ranges::count_if(
        all, [uid](const VmHandle& v) { return v->vm->record().uid == uid; }));
  }
};

// One VM of each user that connects. Its standard error has why it was refused.
class Crowd {
 public:
  explicit Crowd(const Daemon& daemon) : dir_(daemon.dir) {
    std::filesystem::remove(dir_ / "out");  // of a crowd before this one
    const std::string command = std::string(std::getenv("RAMFOLD_CROWD_GUEST")) + " " +
                                daemon.socket() + " 2 2 > " + dir_ / "out" + " 2> " + dir_ / "err";
    guests_ = ::popen(command.c_str(), "w");
    REQUIRE(guests_ != nullptr);
    REQUIRE(std::fputs("attach\n", guests_) >= 0);
    REQUIRE(std::fflush(guests_) == 0);
  }
  ~Crowd() { ::pclose(guests_); }
  Crowd(const Crowd&) = delete;
  Crowd& operator=(const Crowd&) = delete;
  // How many have managed to attach.
  std::string attached() const {
    REQUIRE(soon([&] { return std::ranges::count(text("out"), '\n') == 2; }, 60'000));
    return text("out");
  }
  std::string why() const { return text("err"); }

 private:
  std::string text(const std::string& name) const {
    std::ostringstream all;
    all << std::ifstream(dir_ / name).rdbuf();
    return all.str();
  }
  const TempDir& dir_;
  FILE* guests_ = nullptr;
};

constexpr std::uint64_t kMost = OwnerShare(Agents::kVmsMax, OwnerShare::kHalf).most(0);

// With two VMs of the second user the first would have one VM less, so that the result of a further
// crowd would depend on who is first.
void remove_vms_of_second(Daemon& daemon) {
  for (const VmHandle& vm : daemon.vms.all()) {
    if (vm->vm->record().uid == kSecondUser) REQUIRE(daemon.vms.remove(vm->vm->id()));
  }
}

}  // namespace

TEST_CASE("a user at its bound of VMs is told why the next is refused, and others are attached") {
  Daemon daemon;
  const VmHandle many = test::bare_vm(PageCount{1}, kFirstNumber, kFirstUser);
  for (std::uint64_t i = 1; i < kMost; ++i) daemon.vms.add(many);
  daemon.vms.add(test::bare_vm(PageCount{1}, kFirstNumber + 1, kFirstUser));
  {
    const Crowd crowd(daemon);
    CHECK(crowd.attached() == "there\n1\n");
    CHECK(daemon.of(kSecondUser) == 1);
    CHECK(daemon.of(kFirstUser) == kMost);
    CHECK(crowd.why().find("too many VMs of its user") != std::string::npos);
    CHECK(crowd.why().find("run fewer VMs") != std::string::npos);
    // The same for `list`.
    const auto waiting = daemon.agents->waiting();
    REQUIRE(waiting.size() == 1);
    CHECK(waiting[0].uid == kFirstUser);
    CHECK(waiting[0].refused.find("too many VMs of its user") != std::string::npos);
    CHECK(waiting[0].refused.find("run fewer VMs") != std::string::npos);
  }
  // The remedy helps.
  REQUIRE(daemon.vms.remove(VmId{kFirstNumber + 1}));
  remove_vms_of_second(daemon);
  REQUIRE(soon([&] { return daemon.vms.users().size() == kMost - 1; }));
  const Crowd crowd(daemon);
  CHECK(crowd.attached() == "there\n2\n");
  CHECK(daemon.of(kFirstUser) == kMost);
  CHECK(daemon.of(kSecondUser) == 1);
}

TEST_CASE("a VM that has left counts for its user until a thread that is held up lets go of it") {
  Daemon daemon;
  const VmHandle many = test::bare_vm(PageCount{1}, kFirstNumber, kFirstUser);
  for (std::uint64_t i = 1; i < kMost; ++i) daemon.vms.add(many);
  VmHandle held = test::bare_vm(PageCount{1}, kFirstNumber + 1, kFirstUser);
  daemon.vms.add(held);
  REQUIRE(daemon.vms.remove(VmId{kFirstNumber + 1}));
  CHECK(daemon.of(kFirstUser) == kMost - 1);
  CHECK(daemon.vms.users().size() == kMost);
  {
    const Crowd crowd(daemon);
    CHECK(crowd.attached() == "there\n1\n");
    CHECK(daemon.of(kSecondUser) == 1);
    CHECK(crowd.why().find("still held up") != std::string::npos);
  }
  remove_vms_of_second(daemon);
  held.reset();
  REQUIRE(soon([&] { return daemon.vms.users().size() == kMost - 1; }));
  const Crowd crowd(daemon);
  CHECK(crowd.attached() == "there\n2\n");
  CHECK(daemon.of(kFirstUser) == kMost);
}

TEST_CASE("the unit allows as many tasks as processes can hold up, and a reserve") {
  std::ifstream unit(std::getenv("RAMFOLD_UNIT"));
  std::uint64_t allowed = 0;
  for (std::string line; std::getline(unit, line);) {
    constexpr std::string_view kKey = "TasksMax=";
    if (line.starts_with(kKey)) allowed = std::stoull(line.substr(kKey.size()));
  }
  // The table of threads in docs/design.md, Hostile agents.
  const policy::Config defaults;
  const std::uint64_t of_vm = 5 + defaults.scan.threads + defaults.fault.threads_per_vm;
  constexpr std::uint64_t kBesideVms = LookDesk::kAllMax + kClosingMax +
                                       OthersWatch::kStrangersMax + 2 * sys::Receptionist::kHeldMax;
  constexpr std::uint64_t kReserve = 1024;
  CHECK(allowed >= Agents::kVmsMax * of_vm + kBesideVms + kReserve);
}

TEST_CASE("an agent of a user with all the VMs that it may have still finds a connection") {
  constexpr OwnerShare kVms(Agents::kVmsMax, OwnerShare::kHalf);
  constexpr OwnerShare kConnections(Agents::kConnectionsMax, OwnerShare::kHalf);
  for (std::uint64_t others = 0; others <= Agents::kVmsMax; ++others) {
    INFO("VMs of others, each with a connection: " << others);
    REQUIRE(kConnections.allows(others, kVms.most(others), 1));
  }
}
