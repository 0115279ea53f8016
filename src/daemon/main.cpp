// SPDX-License-Identifier: GPL-2.0-or-later
#include <sys/resource.h>
#include <systemd/sd-daemon.h>
#include <CLI/CLI.hpp>
#include <atomic>
#include <csignal>
#include <functional>
#include <memory>
#include <string>

#include "control/server.hpp"
#include "daemon/custody/end_watch.hpp"
#include "daemon/custody/program_file.hpp"
#include "daemon/host.hpp"
#ifdef RAMFOLD_TEST_POINTS
#include "daemon/kill_point.hpp"
#endif
#include "daemon/log.hpp"
#include "version.hpp"

namespace {

using namespace ramfold;

constexpr rlim_t kFilesWanted = 65'536;
// Exit status after a complete `off`: no VM needs the daemon. The unit does not start it again.
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

// The socket for operators. If it cannot be opened, guests are served and folded all the same.
class Operators {
 public:
  Operators(const policy::Config& config, control::Service& service)
      : config_(config), service_(service) {}
  // Listens, unless it does already. False: it cannot; the reason is logged once.
  bool listen() {
    if (server_) return true;
    auto started = control::Server::start({config_.control_socket(), config_.control_group,
                                           [this](std::string_view line) {
                                             if (!tries_again_)
                                               daemon::log::info("control: {}", line);
                                           }},
                                          service_);
    tries_again_ = !started;
    if (started) {
      server_ = std::move(*started);
    } else if (started.error().text() != complaint_) {
      complaint_ = started.error().text();
      daemon::log::error("the control socket does not work: {}: trying again", complaint_);
    }
    return server_ != nullptr;
  }
  void close() { server_.reset(); }

 private:
  const policy::Config& config_;
  control::Service& service_;
  std::string complaint_;
  std::atomic<bool> tries_again_{false};  // then its messages at the start are not repeated
  std::unique_ptr<control::Server> server_;
};

// Waits for a signal and returns it. Calls whole() again and again until it returns true.
int wait_for_signal(const sigset_t& signals, const std::function<bool()>& whole) {
  constexpr timespec kTryEvery{0, 250'000'000};
  for (;;) {
    int signal = 0;
    if (whole()) {
      (void)::sigwait(&signals, &signal);
    } else {
      signal = ::sigtimedwait(&signals, nullptr, &kTryEvery);
    }
    if (signal > 0) return signal;
  }
}

// Waits for a signal that ends this daemon, and returns it. On SIGHUP the configuration is read
// anew; where another version of the program is installed, this one makes way for it instead.
int wait_for_end(const sigset_t& signals, const std::function<bool()>& whole, daemon::Host& host,
                 const daemon::ProgramFile& program) {
  for (;;) {
    const int signal = wait_for_signal(signals, whole);
    if (signal != SIGHUP) return signal;
    if (program.was_replaced()) {
      daemon::log::info("another version is installed: making way for it");
      return signal;
    }
    host.reload();
  }
}

int serve(daemon::Configuration configuration) {
  const daemon::ProgramFile program;
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGHUP);
  // Before the first thread starts: all threads inherit the mask, so only this thread gets the
  // signals.
  ::pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  std::signal(SIGPIPE, SIG_IGN);
  // It forks: before there is a second thread.
  const daemon::EndWatch watch = daemon::EndWatch::start();
  auto pins = daemon::PinLoader::begin();
  auto host = daemon::Host::start(std::move(configuration), std::move(pins));
  if (!host) {
    daemon::log::critical("{}", host.error().text());
    return 1;
  }
  const auto service = (*host)->make_service();
  Operators operators((*host)->config_of_start(), *service);
  const auto whole = [&] {
    const bool threads = (*host)->begin_threads();
    return operators.listen() && threads;
  };
  (void)whole();
  daemon::log::info("ramfoldd {} is ready", kVersion);
  (void)::sd_notify(0, "READY=1");
  const int signal = wait_for_end(signals, whole, **host, program);
  // No STOPPING=1: after it, systemd accepts no other main process (EndWatch).
  // begin_stop() before close(): close() waits for running operations, and an `off` may take
  // minutes.
  (*host)->begin_stop();
  operators.close();
  (*host)->stop();
  const bool off = (*host)->is_off();
  // SIGHUP asks for a new daemon, even though that one will be off too.
  const int status = off && signal != SIGHUP ? kExitOff : 0;
  daemon::log::info("stopped; {}", status == kExitOff ? "switched off, no VM needs a ramfoldd"
                                   : off
                                       ? "the next ramfoldd may start; it is switched off as well"
                                       : "folded pages stay with the keeper for the next ramfoldd");
  const unsigned left = (*host)->count_held();
  if (left == 0) return status;
  // Threads that a VM's process holds up still use the objects that a normal end would destroy.
  daemon::log::warn("processes of VMs hold up {} threads, which are abandoned", left);
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
  app.set_version_flag("--version", std::string(kVersion));
  CLI11_PARSE(app, argc, argv);
  daemon::log::set_up();
  raise_file_limit();
#ifdef RAMFOLD_TEST_POINTS
  daemon::arm_kill_point();
#endif
  source.named = named->count() != 0;
  // A second daemon on the host must not use the decisions of the first.
  if (!source.runtime_dir.empty() && source.state_dir.empty()) {
    source.state_dir = source.runtime_dir + "/state";
  }
  daemon::Configuration configuration = daemon::load_configuration(source);
  daemon::log::set_level(configuration.config.log_level);
  tell(configuration);
  return serve(std::move(configuration));
}
