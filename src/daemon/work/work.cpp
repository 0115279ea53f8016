// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/work/work.hpp"

#include "daemon/log.hpp"
#include "daemon/work/read_cost.hpp"
#include "store/contents.hpp"
#include "store/stats.hpp"

namespace ramfold::daemon {

Work::Work(VmSet& vms, store::Contents& contents, HostState& state, const policy::Config& config)
    : contents_(contents), state_(state), config_(config), scan_(vms, contents, state, config) {}

void Work::start() {
  scan_.start();
  started_.store(true);  // tend() starts the threads that the kernel refused
  if (config_.reform.policy == policy::ReformPreset::off) return;
  auto reform = ReformWorker::make(contents_, state_, config_.reform);
  if (!reform) {
    log::error("stored contents keep their forms: {}", reform.error().text());
    return;
  }
  owned_reform_ = std::move(*reform);
  reform_.store(owned_reform_.get());
}

void Work::stop() noexcept {
  scan_.stop();
  if (owned_reform_) owned_reform_->stop();
}

void Work::tend() {
  if (!started_) return;
  scan_.tend();
  if (reform_.load() != nullptr) (void)owned_reform_->begin();
}

Work::Cpu Work::cpu() const noexcept {
  const ReformWorker* const reform = reform_.load();
  return {scan_.scan_cpu_ns(), scan_.fold_cpu_ns(), reform == nullptr ? 0 : reform->cpu_ns()};
}

std::optional<Work::Reform> Work::reform() const {
  const ReformWorker* const reform = reform_.load();
  if (reform == nullptr) return std::nullopt;
  return Reform{reform->figures(), reform->policy().economy.cpu_s_per_gib_hour};
}

double Work::mean_read_ns(GroupId group) const {
  const store::Stats stats = contents_.stats();
  const auto* found = store::find_group(stats.groups, group);
  if (found == nullptr) return 0;
  const ReformWorker* const reform = reform_.load();
  const auto costs = reform != nullptr ? reform->figures().costs : store::CostModel().figures();
  return daemon::mean_read_ns(found->forms, costs.decode_ns);
}

}  // namespace ramfold::daemon
