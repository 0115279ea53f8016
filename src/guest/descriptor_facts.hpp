// SPDX-License-Identifier: GPL-2.0-or-later
// What QEMU's open descriptors say: can each be shown to carry no device write in flight past the
// guard (the buffered gate, D1, D2), and no other consumer of RAM (D13)? An allow-list: what is not
// known to be harmless is a reason. Threads: values; check_descriptors() may be called from any
// thread.
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
  passthrough,     // commands that pin RAM, whatever the flags say (SG_IO)
  confidential,
  unknown,
};
// A character device by its kernel name: "kvm", "net/tun", "vfio/12".
Judged judge_device(std::string_view name) noexcept;

enum class KernelObject : std::uint8_t {
  none,  // not one: the link is a path
  harmless,
  userfaultfd,
  ring,  // io_uring: harmless without registered buffers
  kvm_vm,
  other_consumer,
  confidential,
  unknown,
};
// A link that is no path: "anon_inode:[eventfd]", "socket:[7]", "/dmabuf:".
KernelObject judge_link(std::string_view link) noexcept;

// File systems whose buffered reads go through the page cache and a copy.
bool is_buffered_filesystem(std::string_view type) noexcept;
// Local file systems, which answer a stat at once; others are judged by their mount alone.
bool is_local_filesystem(std::string_view type) noexcept;

struct DescriptorFacts {
  sys::Seen seen = sys::Seen::all;
  std::size_t userfaultfds = 0;
  bool uses_kvm = false;
};
// Adds a reason for each descriptor of `pid` that stands against folding.
DescriptorFacts check_descriptors(const sys::Procfs& procfs, pid_t pid, ReasonList& reasons);

}  // namespace ramfold::guest
