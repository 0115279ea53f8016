// SPDX-License-Identifier: GPL-2.0-or-later
// Who an agent is, and a VM made out of its checked offer.
// Threads: Attacher by the agents' thread only; the functions by any.
#pragma once

#include <optional>
#include <span>
#include <string>

#include "daemon/custody/adopter.hpp"
#include "guest/attach_check.hpp"
#include "policy/config.hpp"
#include "sys/procfs.hpp"

namespace ramfold::store {
class Contents;
}

namespace ramfold::daemon {

// Who is at the other end of an agent's socket, as the kernel says.
struct AgentPeer {
  pid_t pid = -1;
  uid_t uid = static_cast<uid_t>(-1);
  uid_t account = static_cast<uid_t>(-1);  // sys::SubordinateIds; what bounds on a user go by
  std::uint64_t start_ticks = 0;
  sys::Fd pidfd;
};

// QEMU's -name and -uuid: "qemu-PID" where there is no name; the uuid in lower case, empty where
// there is none. Its own process says so: a claim.
struct VmIdentity {
  std::string name;
  std::string uuid;
};
// Reads its command line: the process can make that wait.
VmIdentity identify(const sys::Procfs& procfs, pid_t pid);
// The trust group (docs/design.md, Groups): the operator's, else the owner's; VMs that a management
// layer starts under one account are a group each.
std::string group_of(const policy::Config& config, const VmIdentity& identity, uid_t uid, VmId id);

// Why a VM with so much RAM is not attached; nothing: it may be.
std::optional<std::string> too_much_ram(const policy::HostConfig& host, PageCount declared,
                                        ByteCount host_ram);

class Attacher {
 public:
  Attacher(Adopter& adopter, std::uint64_t uffd_features) noexcept
      : adopter_(adopter), features_(uffd_features) {}

  // What every userfaultfd is to have negotiated.
  std::uint64_t features() const noexcept { return features_; }
  // `offer`, `uffd` and `rams` (one a block) were checked, see Look. Its faults are served on
  // return; nothing of it is punched before the keeper has it (custody/hand_over.hpp). Does not
  // wait for the process, nor for the keeper.
  Result<VmHandle> attach(const AgentPeer& peer, const VmIdentity& identity, const rf_offer& offer,
                          sys::Fd uffd, std::vector<sys::Fd> rams);
  // Later VMs get higher numbers. Before the first attach().
  void number_after(VmId last) noexcept { next_id_ = last.value + 1; }

 private:
  Adopter& adopter_;
  const std::uint64_t features_;
  std::uint32_t next_id_ = 1;
};

}  // namespace ramfold::daemon
