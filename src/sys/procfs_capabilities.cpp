// SPDX-License-Identifier: GPL-2.0-or-later
// The capabilities of a process, from /proc (sys/capabilities.hpp).
#include <cerrno>
#include <optional>

#include "sys/capabilities.hpp"
#include "sys/procfs.hpp"
#include "sys/procfs_text.hpp"

namespace ramfold::sys {

Result<std::uint64_t> parse_capabilities(std::string_view status) {
  std::uint64_t all = 0;
  for (const char* const set : {"CapInh:", "CapPrm:", "CapAmb:"}) {
    const auto bits = text::number<std::uint64_t>(text::value_of(status, set).value_or(""), 16);
    if (!bits) return fail("the capabilities in /proc status are not understood", EIO);
    all |= *bits;
  }
  return all;
}

Result<std::uint64_t> capabilities_of(pid_t pid, const std::string& root) {
  std::uint64_t all = 0;
  std::optional<Error> failed;
  bool any = false;
  const Seen listed = Procfs(root).thread_ids(pid, [&](pid_t thread) {
    const auto status = text::read_file(
        root + "/proc/" + std::to_string(pid) + "/task/" + std::to_string(thread) + "/status",
        kSmallFileMax);
    const auto of_thread = status ? parse_capabilities(*status) : std::unexpected(status.error());
    if (of_thread) {
      all |= *of_thread;
      any = true;
    } else if (of_thread.error().code != ENOENT && of_thread.error().code != ESRCH) {
      failed = of_thread.error();
    }  // else the thread has ended
    return !failed;
  });
  if (failed) return std::unexpected(*failed);
  if (listed != Seen::all) return fail("list the threads of a process", errno_of(listed));
  if (!any) return fail("list the threads of a process", ESRCH);
  return all;
}

}  // namespace ramfold::sys
