// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/loop.hpp"

#include <sys/stat.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>
#include <algorithm>
#include <csignal>

#include "base/clock.hpp"
#include "daemon/judge/damage.hpp"
#include "daemon/judge/kernel_proof.hpp"
#include "daemon/log.hpp"
#include "daemon/report/accounting.hpp"
#include "daemon/report/status_line.hpp"
#include "store/contents.hpp"
#include "store/stats.hpp"

namespace ramfold::daemon {
namespace {

constexpr std::uint64_t kTickNs = 250'000'000;
// Facts are read once a second; on a host with many VMs less often, so that it costs at most
// 1/kFactsPart of a core. That is safe: the agent stops dangerous operations before they begin, and
// asks for a look when something changed.
constexpr std::uint64_t kFactsEveryNs = 1'000'000'000;
constexpr std::uint64_t kFactsEveryMaxNs = 15'000'000'000;
constexpr std::uint64_t kFactsPart = 50;
constexpr std::uint64_t kWriteAgainNs = 10'000'000'000;  // between attempts to write decisions

// {0, 0} if fstat fails.
guest::RamFileId file_of(sys::BorrowedFd fd) {
  struct stat st{};
  if (::fstat(fd.get(), &st) != 0) return {};
  return {st.st_dev, st.st_ino};
}

}  // namespace

void Loop::run() {
  prove_kernel();
  std::uint64_t facts_due_ns = 0;
  std::uint64_t decisions_due_ns = 0;
  while (!p_.stopping) {
    if (p_.hand_over.tend() == HandOver::Keeper::anothers && !p_.stopping) {
      log::critical(
          "the keeper holds another store, whose guests wait: ending, so that the next start takes "
          "it");
      ::kill(::getpid(), SIGTERM);
    }
    p_.departures.bury_dead();
    p_.mappings.tend();
    p_.off.tend();
    for (const VmHandle& vm : p_.vms.all()) tend_damage(*vm, p_.contents);
    judge();
    stalls_.check(p_.vms.all(), monotonic_ns(), p_.policy.config()->fold.pass_seconds);
    tell_status();
    tend_threads();
    if (monotonic_ns() >= facts_due_ns) {
      const std::uint64_t cpu_ns = p_.facts.check();
      facts_due_ns =
          monotonic_ns() + std::clamp(cpu_ns * kFactsPart, kFactsEveryNs, kFactsEveryMaxNs);
    }
    if (!p_.state.recovering) p_.contents.trim();
    if (monotonic_ns() >= decisions_due_ns) {
      if (p_.decisions.write_again()) log::info("the operator's decisions are on the disk now");
      decisions_due_ns = monotonic_ns() + kWriteAgainNs;
    }
    p_.stopping.sleep(kTickNs);
  }
}

void Loop::tend_threads() {
  p_.departures.tend();
  p_.work.tend();
  const bool is_short = p_.fault_pool.is_short();
  if (is_short && !fault_threads_short_) {
    log::error("the kernel gives no further thread for faults: VMs that fault wait for each other");
  }
  fault_threads_short_ = is_short;
}

void Loop::prove_kernel() {
  const sys::LoadedPinTest& pins = p_.pins.loaded();
  KernelProof proof = daemon::prove_kernel(p_.procfs, p_.userfault_device, pins);
  p_.state.publish_self_test(std::move(proof.views));
  if (pins) p_.work.fold_with(*pins);
  const sys::LoadedPrivatePins& copies = p_.pins.private_pins();
  if (pins && copies) {
    p_.work.map_with(*pins, *copies);
  } else {
    p_.work.map_nothing();
    if (!copies) log::info("no page will be shared while it is read: {}", copies.error().text());
  }
  {
    const MutexLock judging(judging_);
    no_pin_test_ = proof.facts.no_pin_test;
  }
  self_test_.store(proof.passed ? SelfTest::passed : SelfTest::failed);
  p_.facts.begin(std::move(proof.facts), {::getpid(), file_of(p_.contents.files().contents)});
}

void Loop::tell_status() {
  std::string line = status_line(p_.vms.size(), p_.state.verdict().reasons);
  if (line == status_told_) return;
  (void)::sd_notify(0, ("STATUS=" + line).c_str());
  status_told_ = std::move(line);
}

HostInputs Loop::sense(const std::vector<VmHandle>& vms, const store::Stats& stats) const {
  HostInputs in;
  in.config_broken = p_.policy.broken();
  in.decisions_unreadable = p_.decisions.unreadable();
  if (const SelfTest found = self_test_; found != SelfTest::not_run) {
    in.self_test_passed = found == SelfTest::passed;
  }
  in.no_pin_test = no_pin_test_;
  in.keeper_connected = p_.keeping.connected();
  in.keeper_silent = p_.keeping.silent();
  in.recovering = p_.state.recovering;
  in.recovery_trouble = p_.recovery.trouble();
  for (LeftBehind::View& vm : p_.left_behind.views())
    in.unserved.push_back({vm.id, std::move(vm.why), vm.held});
  in.paused = p_.state.paused;
  in.off = p_.state.off;
  if (in.off) in.off_trouble = p_.off.trouble();
  if (const auto left = p_.off.lost_left(); !left.empty()) in.off_but_lost = tell_lost(left);
  in.store_full = p_.state.store_full();
  if (const auto memory = p_.procfs.memory_info()) in.memory = *memory;
  if (const auto pressure = p_.procfs.memory_pressure()) {
    in.memory_stalled_permille = pressure->some_10s_permille;
  }
  in.memory_before = p_.state.verdict().memory;
  in.needed_if_all_back = needed_if_all_back(vms, stats);
  return in;
}

void Loop::judge() {
  const MutexLock judging(judging_);
  const std::vector<VmHandle> vms = p_.vms.all();
  const store::Stats stats = p_.contents.stats();
  const HostInputs in = sense(vms, stats);
  const auto config = p_.policy.config();
  if (in.memory) {
    keeps_.judge(vms, stats, {config->host.vm_kept_factor_max, in.memory->total});
  }
  p_.state.publish(judge_host(in, *config));
}

}  // namespace ramfold::daemon
