// SPDX-License-Identifier: GPL-2.0-or-later
#include "cli/exec.hpp"

#include <fmt/core.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <climits>
#include <cstdlib>
#include <cstring>

#include "cli/host_files.hpp"
#include "cli/program_file.hpp"
#include "cli/qemu_command.hpp"

namespace ramfold::cli {
namespace {

constexpr const char* kLibraryName = "libramfold-agent.so";

std::string own_directory() {
  std::array<char, PATH_MAX> path{};
  const ssize_t n = ::readlink("/proc/self/exe", path.data(), path.size() - 1);
  if (n <= 0) return {};
  const std::string_view file(path.data(), static_cast<std::size_t>(n));
  return std::string(file.substr(0, file.rfind('/')));
}

std::string absolute(const std::string& path) {
  std::array<char, PATH_MAX> resolved{};
  return ::realpath(path.c_str(), resolved.data()) == nullptr ? std::string() : resolved.data();
}

Result<std::string> read_named(const std::string& path) {
  return HostFiles("").named_by(::getpid(), path);
}

// At most one line, however much is wrong, so that it does not fill the log of QEMU's starts.
void warn(const Console& console, const QemuAdvice& advice) {
  if (advice.probing) return;
  if (advice.reasons.empty() && !advice.unread.empty()) {
    console.complain(
        fmt::format("ramfold: whether this VM can be folded is not known: its -readconfig file "
                    "cannot be read: {}\n",
                    printable(advice.unread.front())));
  }
  if (advice.reasons.empty()) return;
  const control::Reason& first = advice.reasons.front();
  const std::string more = advice.reasons.size() > 1 ? fmt::format(" (+{} more: `ramfold doctor`)",
                                                                   advice.reasons.size() - 1)
                                                     : "";
  console.complain(fmt::format("ramfold: this VM will only be observed: {}; {}{}\n",
                               printable(first.text), printable(first.remedy), more));
}

}  // namespace

AgentLibrary find_agent() {
  std::vector<std::string> sought;
  if (const char* named = std::getenv("RAMFOLD_AGENT_LIB"); named != nullptr && *named != '\0') {
    sought.emplace_back(named);
  } else {
    const std::string here = own_directory();
    sought = {here + "/../agent/" + kLibraryName,
              std::string(RAMFOLD_AGENT_DIR) + "/" + kLibraryName,
              here + "/../lib/ramfold/" + kLibraryName, here + "/../lib/" + kLibraryName};
  }
  AgentLibrary library;
  for (const std::string& candidate : sought) {
    library.path = absolute(candidate);
    if (!library.path.empty()) break;
  }
  if (library.path.empty()) {
    library.problem = fmt::format("the agent is not at {}; set RAMFOLD_AGENT_LIB",
                                  sought.size() == 1 ? sought[0] : sought[1]);
  } else if (library.path.find_first_of(" :") != std::string::npos) {
    library.problem = fmt::format(
        "LD_PRELOAD cannot hold the path '{}' (a blank or colon in it); "
        "install the agent elsewhere",
        library.path);
  }
  return library;
}

std::string preload_with(std::string_view agent, std::string_view before) {
  std::string_view rest = before;
  while (!rest.empty()) {
    const auto end = rest.find_first_of(" :");
    if (rest.substr(0, end) == agent) return std::string(before);
    if (end == std::string_view::npos) break;
    rest.remove_prefix(end + 1);
  }
  return before.empty() ? std::string(agent) : fmt::format("{}:{}", agent, before);
}

ExitCode run_exec(const ExecOptions& options, const Console& console) {
  const std::string& program = options.command.front();
  const AgentLibrary agent = find_agent();
  std::string problem = agent.problem;
  if (problem.empty()) {
    if (const auto reason = why_not_loaded(program)) {
      problem = fmt::format("{}; {}", reason->why, reason->remedy);
    }
  }
  if (problem.empty()) {
    const char* before = std::getenv("LD_PRELOAD");
    const std::string preload = preload_with(agent.path, before == nullptr ? "" : before);
    ::setenv("LD_PRELOAD", preload.c_str(), 1);
    if (is_qemu(program)) warn(console, examine(options.command, read_named));
  } else {
    console.complain(fmt::format("ramfold: {} starts without the agent: {}\n", printable(program),
                                 printable(problem)));
  }
  if (options.agent_socket) ::setenv("RAMFOLD_AGENT_SOCKET", options.agent_socket->c_str(), 1);
  std::fflush(console.err);

  std::vector<char*> argv;
  argv.reserve(options.command.size() + 1);
  for (const std::string& argument : options.command) {
    argv.push_back(const_cast<char*>(argument.c_str()));
  }
  argv.push_back(nullptr);
  ::execvp(argv[0], argv.data());
  const int error = errno;
  console.complain(fmt::format("ramfold: cannot execute {}: {}\n",
                               printable(options.command.front()), std::strerror(error)));
  return error == ENOENT ? ExitCode::not_found : ExitCode::cannot_execute;
}

}  // namespace ramfold::cli
