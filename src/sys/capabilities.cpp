// SPDX-License-Identifier: GPL-2.0-or-later
#include "sys/capabilities.hpp"

#include <linux/capability.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdint>

namespace ramfold::sys {

Status drop_capabilities(std::span<const int> capabilities) {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  std::array<__user_cap_data_struct, _LINUX_CAPABILITY_U32S_3> sets{};
  if (::syscall(SYS_capget, &header, sets.data()) != 0) return fail_errno("capget");
  for (const int capability : capabilities) {
    // Before the others: it takes CAP_SETPCAP, and that the capability is still there says nothing.
    if (::prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) != 0 && errno != EPERM && errno != EINVAL)
      return fail_errno("PR_CAPBSET_DROP");
    __user_cap_data_struct& set = sets[CAP_TO_INDEX(capability)];
    const std::uint32_t others = ~CAP_TO_MASK(capability);
    set.effective &= others;
    set.permitted &= others;
    set.inheritable &= others;  // and so the ambient set
  }
  if (::syscall(SYS_capset, &header, sets.data()) != 0) return fail_errno("capset");
  return {};
}

}  // namespace ramfold::sys
