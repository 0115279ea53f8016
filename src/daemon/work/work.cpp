// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/work/work.hpp"

#include "daemon/log.hpp"
#include "daemon/work/read_cost.hpp"
#include "store/contents.hpp"
#include "store/stats.hpp"

namespace ramfold::daemon {

namespace {

double worth_of(const policy::ReformConfig& reform) noexcept {
  return reform.policy == policy::ReformPreset::off ? 0 : reform.cpu_s_per_gib_hour();
}

}  // namespace

Work::Work(VmSet& vms, store::Contents& contents, HostState& state, const policy::Config& config,
           const Sources::Kernel& kernel)
    : contents_(contents),
      state_(state),
      sources_(kernel),
      scan_(vms, contents, state, config),
      referenced_(config.scan.referenced),
      mapping_(vms, contents, state, config),
      reform_config_(config.reform),
      cpu_s_per_gib_hour_(worth_of(config.reform)) {
  tell_referenced(config.scan.referenced);
}

void Work::tell_referenced(policy::Referenced wanted) const {
  if (const auto why = sources_.refusal(wanted)) {
    log::warn("{}: it is not known which pages guests touch; {}", why->text, why->remedy);
  } else {
    log::info("scan.referenced: {}", sources_.name_of_chosen(wanted));
  }
}

Work::Asked Work::asked() const {
  const policy::Referenced wanted = referenced_;
  return {sources_.name_of_chosen(wanted), sources_.refusal(wanted)};
}

void Work::start() {
  scan_.start();
  tend_mapping();
  started_.store(true);  // tend() starts the threads that the kernel refused
  const MutexLock lock(reform_mutex_);
  tend_reform();
}

void Work::set(const policy::Config& config) {
  scan_.set(policy::work_targets(config));
  if (referenced_.exchange(config.scan.referenced) != config.scan.referenced)
    tell_referenced(config.scan.referenced);
  mapping_.set(policy::work_targets(config));
  const MutexLock lock(reform_mutex_);
  reform_config_ = config.reform;
  cpu_s_per_gib_hour_.store(worth_of(config.reform));
  if (owned_reform_) owned_reform_->set(config.reform);
}

void Work::tend_reform() {
  if (stopped_) return;
  if (!owned_reform_) {
    if (cpu_s_per_gib_hour_ == 0) return;
    auto reform = ReformWorker::make(contents_, state_, reform_config_);
    if (!reform) {
      if (reform.error().text() == reform_complaint_) return;
      reform_complaint_ = reform.error().text();
      log::error("stored contents keep their forms: {}: trying again", reform_complaint_);
      return;
    }
    owned_reform_ = std::move(*reform);
    reform_.store(owned_reform_.get());
  }
  (void)owned_reform_->begin();
}

void Work::tend_mapping() {
  const Status begun = mapping_.begin();
  if (!begun && !std::exchange(mapping_complained_, true))
    log::error("pages are not mapped, and not put back: {}: trying again", begun.error().text());
}

void Work::stop() noexcept {
  scan_.stop();
  mapping_.stop();
  const MutexLock lock(reform_mutex_);
  stopped_ = true;
  if (owned_reform_) owned_reform_->stop();
}

void Work::tend() {
  if (!started_) return;
  scan_.tend();
  tend_mapping();
  const MutexLock lock(reform_mutex_);
  tend_reform();
}

Work::Cpu Work::cpu() const noexcept {
  const ReformWorker* const reform = reform_.load();
  return {scan_.scan_cpu_ns(), scan_.fold_cpu_ns() + mapping_.cpu_ns(),
          reform == nullptr ? 0 : reform->cpu_ns()};
}

std::optional<Work::Reform> Work::reform() const {
  const ReformWorker* const reform = reform_.load();
  const double worth = cpu_s_per_gib_hour_;
  if (reform == nullptr || worth == 0) return std::nullopt;
  return Reform{reform->figures(), worth};
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
