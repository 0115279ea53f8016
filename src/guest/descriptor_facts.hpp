// SPDX-License-Identifier: GPL-2.0-or-later
// What QEMU's open descriptors say: does one of them give RAM to somebody who does not know holes
// (D13), or who cannot wait for a page (D21)? Devices and kernel objects are an allow-list: what is
// not known to be harmless is a reason. Whoever takes pages through QEMU's page table, and waits,
// is harmless: the gate sees what is held (guest/pin_proof.hpp). So disks and files say nothing.
// Threads: values; check_descriptors() may be called from any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "guest/reasons.hpp"
#include "sys/procfs.hpp"

namespace ramfold::guest {

enum class Judged : std::uint8_t {
  harmless,
  other_consumer,  // somebody else would read or write RAM through it
  confidential,
  unknown,
};
// A character device by its kernel name: "kvm", "net/tun", "vfio/12".
Judged judge_device(std::string_view name) noexcept;

enum class KernelObject : std::uint8_t {
  none,  // not one: the link is a path
  harmless,
  userfaultfd,
  other_consumer,
  confidential,
  unknown,
};
// A link that is no path: "anon_inode:[eventfd]", "socket:[7]", "/dmabuf:".
KernelObject judge_link(std::string_view link) noexcept;

// Local file systems, which answer a stat at once; nothing is asked of others.
bool is_local_filesystem(std::string_view type) noexcept;

struct DescriptorFacts {
  sys::Seen seen = sys::Seen::all;
  std::size_t userfaultfds = 0;
  std::size_t vcpus = 0;  // KVM's; 0: not known, as under TCG
};
// Adds a reason for each descriptor of `pid` that stands against folding.
DescriptorFacts check_descriptors(const sys::Procfs& procfs, pid_t pid, ReasonList& reasons);

}  // namespace ramfold::guest
