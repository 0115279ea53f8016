// SPDX-License-Identifier: GPL-2.0-or-later
// The agent inside stock QEMU: plain, daemonized, with several RAM blocks, in the sandbox that
// libvirt asks for and without privilege.
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>

#include "fake_daemon.hpp"

using namespace agent_test;

namespace {

constexpr uint64_t kMiB = 1 << 20;
constexpr unsigned kNobody = 65534;

struct Vm {
  explicit Vm(std::vector<std::string> more, unsigned uid = 0)
      : directory(temporary_directory()), daemon(directory + "/agent.sock") {
    Guest::Options options;
    options.command = {"qemu-system-x86_64",
                       "-object",
                       "memory-backend-memfd,id=mem,size=64M,share=on",
                       "-display",
                       "none",
                       "-nodefaults",
                       "-accel",
                       "tcg,tb-size=32",
                       "-S"};
    if (std::find(more.begin(), more.end(), "-M") == more.end())
      more.insert(more.end(), {"-M", "q35,memory-backend=mem", "-m", "64M"});
    options.command.insert(options.command.end(), more.begin(), more.end());
    options.uid = uid;
    // Where an unprivileged QEMU can read it.
    options.library = directory + "/libramfold-agent.so";
    std::filesystem::copy_file(AGENT_LIBRARY, options.library);
    guest.emplace(daemon.path(), std::move(options));
  }
  void monitor(const std::string& command) {
    guest->tell(command);
    guest->read_output_until("(qemu)");
  }
  std::string directory;
  Daemon daemon;
  std::optional<Guest> guest;
};

// The uffd works on QEMU's memory from here, whatever QEMU may do itself.
void faults_are_served(Daemon& daemon, const rf_offer& offer) {
  uffdio_api api{};
  api.api = UFFD_API;
  api.features = UFFD_FEATURE_MISSING_SHMEM | UFFD_FEATURE_WP_HUGETLBFS_SHMEM;
  REQUIRE(::ioctl(daemon.uffd.get(), UFFDIO_API, &api) == 0);
  const uint64_t page = offer.block[0].address + 32 * kMiB;
  register_all(daemon.uffd, offer.block[0].address, offer.block[0].size);
  install(daemon.uffd, page, 0x77);
  char byte = 0;
  REQUIRE(::pread(daemon.ram[0].get(), &byte, 1, 32 * kMiB + 5) == 1);
  CHECK(byte == 0x77);
  uffdio_range range{offer.block[0].address, offer.block[0].size};
  REQUIRE(::ioctl(daemon.uffd.get(), UFFDIO_UNREGISTER, &range) == 0);
}

// The end of QEMU needs nothing of the daemon; should a later one unmap its RAM, it is allowed.
void ends(Vm& vm) {
  vm.guest->tell("quit");
  for (;;) {
    const Packet packet = vm.daemon.receive();
    if (packet.bytes.empty()) break;
    if (packet.type() != RF_UNFOLD) continue;
    rf_unfolded answer{};
    answer.token = packet.as<rf_unfold>().token;
    answer.ok = 1;
    vm.daemon.send(&answer, sizeof answer, RF_UNFOLDED, 1);
  }
  vm.guest->finish();
  CHECK(vm.guest->exit_status == 0);
  CHECK(vm.guest->read_errors().empty());
}

const std::vector<std::string> kMonitor{"-monitor", "stdio"};
const std::vector<std::string> kSandboxed{
    "-monitor", "stdio", "-sandbox",
    "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"};

void whole_life(Vm& vm) {
  CHECK(vm.daemon.hello().blocks == 1);
  const rf_offer offer = vm.daemon.offer(1);
  REQUIRE(offer.blocks == 1);
  CHECK(offer.block[0].size == 64 * kMiB);
  faults_are_served(vm.daemon, offer);
  Shared shared(16384, 1);
  vm.daemon.attach(shared, 1);
  CHECK(shared->sticky == 0);

  // A disk with its cache off, the way an operator adds one, while pages are folded.
  const std::string disk = vm.directory + "/disk";
  std::ofstream(disk) << std::string(65536, 'x');
  std::filesystem::permissions(disk, std::filesystem::perms::all);
  shared->runs_active = 1;
  vm.guest->read_output_until("(qemu)");
  vm.guest->tell("drive_add 0 if=none,id=d,format=raw,cache=none,file=" + disk);
  vm.guest->read_output_until("OK");
  vm.guest->read_output_until("(qemu)");
  CHECK_FALSE(vm.daemon.receive_within(0));

  // Memory added later is left alone.
  vm.monitor("object_add memory-backend-memfd,id=late,size=8M,share=on");
  vm.monitor("object_del late");
  CHECK(shared->sticky == 0);
  ends(vm);
}

}  // namespace

TEST_CASE("stock QEMU, from its start to its end") {
  Vm vm(kMonitor);
  whole_life(vm);
}

TEST_CASE("stock QEMU without privilege in libvirt's sandbox") {
  Vm vm(kSandboxed, kNobody);
  whole_life(vm);
}

TEST_CASE("stock QEMU that daemonizes") {
  Vm vm({"-daemonize", "-pidfile", temporary_directory() + "/pid"});
  vm.guest->finish();
  CHECK(vm.guest->exit_status == 0);
  CHECK(vm.daemon.hello().blocks == 1);
  const rf_offer offer = vm.daemon.offer(1);
  vm.guest->inner_pid = vm.daemon.peer_pid();
  CHECK(vm.guest->inner_pid != vm.guest->pid);
  faults_are_served(vm.daemon, offer);
  Shared shared(16384, 1);
  vm.daemon.attach(shared, 1);
}

TEST_CASE("stock QEMU with RAM of two NUMA nodes") {
  Vm vm({"-monitor", "stdio", "-M", "q35", "-m", "128M", "-object",
         "memory-backend-memfd,id=more,size=64M,share=on", "-numa", "node,memdev=mem", "-numa",
         "node,memdev=more"});
  CHECK(vm.daemon.hello().blocks == 2);
  const rf_offer offer = vm.daemon.offer(1);
  CHECK(offer.blocks == 2);
  Shared shared(32768, 1);
  vm.daemon.attach(shared, 1);
}

TEST_CASE("a background snapshot needs a userfaultfd of QEMU's own: all is unfolded first") {
  Vm vm(kMonitor);
  Shared shared(16384, 1);
  vm.daemon.attached_from_scratch(shared, 1);
  vm.guest->read_output_until("(qemu)");
  vm.guest->tell("migrate_set_capability background-snapshot on");
  const auto request = vm.daemon.expect(RF_UNFOLD).as<rf_unfold>();
  CHECK(request.hazard == RF_HAZARD_OTHER_UFFD);
  rf_unfolded answer{};
  answer.token = request.token;
  answer.ok = 1;
  vm.daemon.send(&answer, sizeof answer, RF_UNFOLDED, 1);
  vm.guest->read_output_until("(qemu)");
  CHECK((shared->sticky & RF_HAZARD_OTHER_UFFD) != 0);
}

TEST_CASE("stock QEMU without a daemon says one line and runs") {
  Vm vm(kMonitor);
  vm.daemon.die();
  vm.guest->wait_for_errors();
  vm.monitor("info status");
  vm.guest->tell("quit");
  vm.guest->finish();
  CHECK(vm.guest->exit_status == 0);
  const std::string errors = vm.guest->read_errors();
  CHECK(errors.find("ramfold: no daemon at ") == 0);
  CHECK(errors.find('\n') == errors.size() - 1);
}
