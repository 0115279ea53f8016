// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/work/reform_worker.hpp"

#include <algorithm>

#include "base/clock.hpp"
#include "sys/priority.hpp"

namespace ramfold::daemon {
namespace {

constexpr std::uint64_t kSecondNs = 1'000'000'000;
constexpr std::uint64_t kSliceNs = 10'000'000;     // CPU time of one step; then the thread sleeps
constexpr std::uint64_t kRoundNs = 2 * kSecondNs;  // from one round's end to the next
constexpr unsigned kIdleMax = 3;  // each round without a change doubles the pause, at most so often
constexpr std::uint64_t kIdleNapNs = 200'000'000;

store::ReformPolicy store_policy(const policy::ReformConfig& config) {
  store::ReformPolicy policy;
  policy.similar = config.similar;
  policy.dense = config.zstd;
  policy.mixed = config.mix;
  policy.economy.cpu_s_per_gib_hour = config.cpu_s_per_gib_hour();
  return policy;
}

}  // namespace

Result<std::unique_ptr<ReformWorker>> ReformWorker::make(store::Contents& contents, HostState& host,
                                                         const policy::ReformConfig& config) {
  auto reformer = store::Reformer::make(contents);
  if (!reformer) return std::unexpected(reformer.error());
  return std::unique_ptr<ReformWorker>(new ReformWorker(std::move(*reformer), host, config));
}

ReformWorker::ReformWorker(std::unique_ptr<store::Reformer> reformer, HostState& host,
                           const policy::ReformConfig& config)
    : reformer_(std::move(reformer)), host_(host), config_(config) {}

Status ReformWorker::begin() {
  if (thread_) return {};
  auto thread = sys::Thread::start("rf-reform", [this] { run(); });
  if (!thread) return std::unexpected(thread.error());
  thread_ = std::move(*thread);
  return {};
}

void ReformWorker::stop() noexcept {
  (void)stopping_.raise();
  thread_.join();
}

void ReformWorker::run() noexcept {
  cpu_.started();
  sys::yield_this_thread();
  unsigned idle = 0;
  bool changed = false;  // in this round
  while (!stopping_) {
    const policy::ReformConfig config = config_.load();
    if (config.policy == policy::ReformPreset::off || !host_.may_reform()) {
      stopping_.sleep(kIdleNapNs);
      continue;
    }
    const std::uint64_t before = thread_cpu_ns();
    const auto step = reformer_->step(store_policy(config), monotonic_ns() / kSecondNs, kSliceNs);
    const auto used = static_cast<double>(thread_cpu_ns() - before);
    const auto owed = static_cast<std::uint64_t>(used / config.cpu - used);
    changed |= step.changed;
    if (step.came_round) {
      idle = changed ? 0 : std::min(idle + 1, kIdleMax);
      changed = false;
    }
    stopping_.sleep(std::max(owed, step.came_round ? kRoundNs << idle : 0));
  }
  cpu_.ended();
}

}  // namespace ramfold::daemon
