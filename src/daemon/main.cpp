// SPDX-License-Identifier: GPL-2.0-or-later
#include <sys/resource.h>
#include <systemd/sd-daemon.h>
#include <CLI/CLI.hpp>
#include <csignal>

#include "control/server.hpp"
#include "daemon/custody/end_watch.hpp"
#include "daemon/host.hpp"
#include "daemon/threads/apart.hpp"
#ifdef RAMFOLD_TEST_POINTS
#include "daemon/kill_point.hpp"
#endif
#include "daemon/log.hpp"
#include "version.hpp"

namespace {

using namespace ramfold;

constexpr rlim_t kFilesWanted = 65'536;
// Nothing depends on this daemon any more: its unit does not start it again.
constexpr int kExitOff = 10;

void raise_file_limit() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = std::min<rlim_t>(limit.rlim_max, kFilesWanted);
  (void)::setrlimit(RLIMIT_NOFILE, &limit);
}

void tell(const daemon::Configuration& configuration) {
  for (const std::string& problem : configuration.problems) daemon::log::error("{}", problem);
  if (const auto& broken = configuration.broken) {
    daemon::log::error("{}: nothing is folded; {}", broken->text, broken->remedy);
  }
  for (const control::Reason& notice : configuration.notices) {
    daemon::log::warn("{}; {}", notice.text, notice.remedy);
  }
}

int serve(daemon::Configuration configuration) {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  // Before any thread is made, so that all of them inherit it and only this one hears.
  ::pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  std::signal(SIGPIPE, SIG_IGN);
  const daemon::EndWatch watch = daemon::EndWatch::start();
  auto host = daemon::Host::start(std::move(configuration));
  if (!host) {
    daemon::log::critical("{}", host.error().text());
    return 1;
  }
  const auto service = (*host)->make_service();
  auto server = control::Server::start(
      {(*host)->config().control_socket(), (*host)->config().control_group,
       [](std::string_view line) { daemon::log::info("control: {}", line); }},
      *service);
  if (!server) {
    daemon::log::critical("{}", server.error().text());
    return 1;
  }
  daemon::log::info("ramfoldd {} is ready", kVersion);
  (void)::sd_notify(0, "READY=1");
  int signal = 0;
  (void)::sigwait(&signals, &signal);
  // No STOPPING=1: of a service that says so, systemd takes no other main process (EndWatch).
  // Before the server ends: it waits for operations under way, which may be an `off` of minutes.
  (*host)->begin_stop();
  server->reset();
  (*host)->stop();
  const bool off = (*host)->is_off();
  daemon::log::info("stopped; {}", off ? "switched off, no VM needs a ramfoldd"
                                       : "folded pages stay with the keeper for the next ramfoldd");
  const int status = off ? kExitOff : 0;
  const unsigned left = daemon::count_apart();
  if (left == 0) return status;
  // Threads that a VM's process holds up still use what would be destroyed now.
  daemon::log::warn("{} threads are held up by processes of VMs, and left", left);
  (*host)->make_way();
  watch.will_end_with(status);
  ::_exit(status);
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"Folds the memory of KVM/QEMU guests. ramfoldd(8)"};
  daemon::ConfigurationSource source;
  source.path = policy::kConfigPathDefault;
  const auto* named = app.add_option("--config", source.path, "configuration file");
  app.add_option("--runtime-dir", source.runtime_dir,
                 "directory of the sockets, instead of the configured one");
  app.add_option("--state-dir", source.state_dir,
                 "directory of what outlasts the daemon, instead of the configured one; with "
                 "--runtime-dir alone it is `state` below that");
  bool accepts_risk = false;
  app.add_flag(
      "--accept-data-loss-risk", accepts_risk,
      "allow gate.grace_seconds: guests with O_DIRECT disks are folded, and may lose data");
  app.set_version_flag("--version", std::string(kVersion));
  CLI11_PARSE(app, argc, argv);
  daemon::log::set_up();
  raise_file_limit();
#ifdef RAMFOLD_TEST_POINTS
  daemon::arm_kill_point();
#endif
  source.named = named->count() != 0;
  source.risk = accepts_risk ? policy::DataLossRisk::accepted : policy::DataLossRisk::refused;
  // Two daemons on one host have not decided the same.
  if (!source.runtime_dir.empty() && source.state_dir.empty()) {
    source.state_dir = source.runtime_dir + "/state";
  }
  daemon::Configuration configuration = daemon::load_configuration(source);
  daemon::log::set_level(configuration.config.log_level);
  tell(configuration);
  return serve(std::move(configuration));
}
