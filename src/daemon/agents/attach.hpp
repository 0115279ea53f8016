// SPDX-License-Identifier: GPL-2.0-or-later
// Identifies an agent, and makes a VM from its checked offer.
// Threads: Attacher by the agents' thread only; the functions by any.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "daemon/custody/adopter.hpp"
#include "guest/attach_check.hpp"
#include "policy/config.hpp"
#include "sys/procfs.hpp"

namespace ramfold::store {
class Contents;
}

namespace ramfold::daemon {

// The process at the other end of an agent's socket, as the kernel reports it.
struct AgentPeer {
  pid_t pid = -1;
  uid_t uid = static_cast<uid_t>(-1);
  uid_t account = static_cast<uid_t>(-1);  // sys::SubordinateIds; bounds per user count by this
  std::uint64_t start_ticks = 0;
  sys::Fd pidfd;
};

// QEMU's -name and -uuid. Without a name: "qemu-PID". The uuid is in lower case; empty if there is
// none. The VM's own process says this, so it is only a claim.
struct VmIdentity {
  std::string name;
  std::string uuid;
};
// Reads the command line of the process, which can make this call wait.
VmIdentity identify(const sys::Procfs& procfs, pid_t pid);
// The trust group (docs/design.md, Groups): the configured one, else the group of the owner. Each
// VM that a management layer starts under one common account is a group of its own.
std::string group_of(const policy::Config& config, const VmIdentity& identity, uid_t uid, VmId id);
// Warns of VMs whose configured group has changed. They stay in the group in which they were
// attached.
void warn_of_groups(const policy::Config& config, const std::vector<VmHandle>& vms);

// The RAM that attached VMs declare.
struct DeclaredRam {
  PageCount of_owner;  // by VMs of the same owner
  PageCount of_others;
};
// Why a VM with `declared` pages of RAM is not attached; nullopt: it may be. For each page that was
// ever touched the daemon keeps a byte until the VM ends, so this bounds these bytes of one owner.
std::optional<std::string> too_much_ram(const policy::HostConfig& host, PageCount declared,
                                        const DeclaredRam& beside, ByteCount host_ram);

class Attacher {
 public:
  Attacher(Adopter& adopter, std::uint64_t uffd_features) noexcept
      : adopter_(adopter), features_(uffd_features) {}

  // The features that every userfaultfd must have negotiated.
  std::uint64_t features() const noexcept { return features_; }
  // `offer`, `uffd` and `rams` (one per block) were checked, see Look; `beside`: the other VMs. On
  // return the VM's faults are served. Nothing of it is punched before the keeper holds it
  // (custody/hand_over.hpp). Waits neither for the process nor for the keeper. Errors: E2BIG, too
  // much RAM; others from the kernel.
  Result<VmHandle> attach(const AgentPeer& peer, const VmIdentity& identity, const rf_offer& offer,
                          sys::Fd uffd, std::vector<sys::Fd> rams, const DeclaredRam& beside);
  // New VMs get higher numbers than `last`. Call it before the first attach().
  void number_after(VmId last) noexcept { next_id_ = last.value + 1; }

 private:
  Adopter& adopter_;
  const std::uint64_t features_;
  std::uint32_t next_id_ = 1;
};

}  // namespace ramfold::daemon
