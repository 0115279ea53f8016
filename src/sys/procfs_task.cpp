// SPDX-License-Identifier: GPL-2.0-or-later
// How far the threads of a process have got with their end.
#include <csignal>

#include "sys/procfs.hpp"
#include "sys/procfs_text.hpp"

namespace ramfold::sys {
namespace {

constexpr unsigned kExiting = 0x4;  // PF_EXITING, include/linux/sched.h

}  // namespace

std::optional<TaskState> parse_task(std::string_view stat, std::string_view status) {
  TaskState task;
  std::string_view rest = text::after_command(stat);
  const std::size_t open = stat.find('(');
  const std::size_t end = stat.size() - rest.size();  // behind the parenthesis
  if (rest.empty() || open >= end) return std::nullopt;
  task.name = stat.substr(open + 1, end - open - 2);
  const std::string_view state = text::word(rest);  // field 3
  for (int field = 4; field < 9; ++field) text::word(rest);
  const auto flags = text::number<unsigned>(text::word(rest));  // field 9
  const auto pending = text::value_of(status, "SigPnd:");
  if (!flags || !pending) return std::nullopt;
  const auto signals = text::number<std::uint64_t>(*pending, 16);
  if (!signals) return std::nullopt;
  task.ended = state == "Z" || state == "X" || (*flags & kExiting) != 0;
  // The kernel gives every thread of a process that ends a SIGKILL of its own.
  task.dying = task.ended || (*signals & std::uint64_t{1} << (SIGKILL - 1)) != 0;
  return task;
}

Seen Procfs::tasks(pid_t pid, const std::function<bool(const TaskState&)>& visit) const {
  Seen seen = Seen::all;
  const Seen listed = thread_ids(pid, [&](pid_t id) {
    const std::string below = "task/" + std::to_string(id) + "/";
    const auto stat = read_process_file(pid, below + "stat", kSmallFileMax);
    const auto status = read_process_file(pid, below + "status", kSmallFileMax);
    if (!stat || !status) {
      const int code = stat ? status.error().code : stat.error().code;
      if (code == ESRCH) return true;  // it has ended meanwhile
      seen = seen_of(code);
      return false;
    }
    auto task = parse_task(*stat, *status);
    if (!task) {
      seen = Seen::failed;
      return false;
    }
    task->id = id;
    return visit(*task);
  });
  return listed == Seen::all ? seen : listed;
}

}  // namespace ramfold::sys
