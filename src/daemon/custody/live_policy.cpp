// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/custody/live_policy.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "daemon/custody/policy_change.hpp"
#include "daemon/log.hpp"
#include "policy/key_effects.hpp"

namespace ramfold::daemon {
namespace {

policy::SetValues values_of(const std::vector<DecisionBook::Set>& set) {
  policy::SetValues values;
  std::vector<const VmKey*> keys;  // of values.vms
  for (const DecisionBook::Set& one : set) {
    if (!one.vm) {
      values.host.insert_or_assign(one.key, one.value);
      continue;
    }
    const auto found =
        std::ranges::find_if(keys, [&](const VmKey* key) { return *key == *one.vm; });
    if (found == keys.end()) {
      keys.push_back(&*one.vm);
      values.vms.push_back({one.vm->name, one.vm->uuid, one.vm->uid, {{one.key, one.value}}});
    } else {
      const auto at = static_cast<std::size_t>(found - keys.begin());
      values.vms[at].values.insert_or_assign(one.key, one.value);
    }
  }
  return values;
}

constexpr std::string_view kDoesNotHold = "a value that was set does not hold";

void warn_of(const std::vector<policy::KeyProblem>& problems) {
  for (const policy::KeyProblem& problem : problems)
    log::warn("policy: {}: {}", kDoesNotHold, problem.line());
}

void put_targets(AttachedVm& vm, const policy::Config& config) {
  policy::VmTargets targets = policy::vm_targets(config, claim_of(vm));
  // It belongs to the trust group, which the VM keeps.
  targets.share = vm.targets.load().share;
  vm.targets.store(targets);
}

// "r.toml:3: runtime_dir changes at the next start, ..."
std::vector<control::Reason> told_of_start(const Configuration& file,
                                           const policy::Config& running) {
  std::vector<control::Reason> told;
  for (const policy::KeyEffect* effect : policy::waiting_for_start(file.config, running)) {
    const auto line = file.lines.find(effect->path);
    const std::string where = line == file.lines.end()
                                  ? file.source.path
                                  : fmt::format("{}:{}", file.source.path, line->second);
    told.push_back({"next-start",
                    fmt::format("{}: {} changes {}: {}", where, effect->path,
                                policy::words_of(effect->takes), effect->how),
                    "`systemctl kill ramfold` makes the daemon start anew; nothing is unfolded"});
  }
  return told;
}

void log_changes(const policy::Config& before, const policy::Config& after) {
  for (const policy::KeyEffect& effect : policy::key_effects()) {
    if (effect.shown == nullptr || effect.shown(before) == effect.shown(after)) continue;
    log::info("policy: {} = {}, before {}: {}", effect.path, effect.shown(after),
              effect.shown(before), policy::words_of(effect.takes));
  }
}

}  // namespace

LivePolicy::LivePolicy(Configuration configuration, Decisions& decisions, const VmSet& vms)
    : start_(configuration.config),
      decisions_(decisions),
      vms_(vms),
      origin_(std::make_shared<const PolicyOrigin>(PolicyOrigin{std::move(configuration), {}, {}})),
      current_(start_) {}

void LivePolicy::begin() {
  const MutexLock changing(changing_);
  PolicyOrigin origin = *this->origin();
  origin.set = decisions_.set_values();
  policy::WithSetValues made = made_of(origin.file, origin.set);
  warn_of(made.problems);
  origin.problems = std::move(made.problems);
  publish(std::move(origin), std::move(made.config));
}

void LivePolicy::apply_with(Apply apply) {
  const MutexLock changing(changing_);
  apply_ = std::move(apply);
}

std::shared_ptr<const PolicyOrigin> LivePolicy::origin() const {
  const MutexLock lock(mutex_);
  return origin_;
}

std::vector<control::Reason> LivePolicy::notices() const {
  const auto now = origin();
  std::vector<control::Reason> notices = now->file.notices;
  for (const policy::KeyProblem& problem : now->problems) {
    notices.push_back({"policy", fmt::format("{}: {}: {}", kDoesNotHold, problem.key, problem.text),
                       fmt::format("{}, or take it back: `ramfold policy set {}=`", problem.remedy,
                                   problem.key)});
  }
  return notices;
}

policy::WithSetValues LivePolicy::made_of(const Configuration& file,
                                          const std::vector<DecisionBook::Set>& set) const {
  return policy::with_set_values(policy::with_keys_of_start(file.config, start_), values_of(set));
}

void LivePolicy::publish(PolicyOrigin origin, policy::Config config) {
  auto next = std::make_shared<const PolicyOrigin>(std::move(origin));
  std::shared_ptr<const policy::Config> now;
  {
    const MutexLock applying(applying_);
    {
      const MutexLock lock(mutex_);
      origin_ = std::move(next);
    }
    current_.set(std::move(config));
    now = current_.get();
    for (const VmHandle& vm : vms_.all()) put_targets(*vm, *now);
  }
  if (apply_) apply_(*now);
}

void LivePolicy::attached(AttachedVm& vm) {
  const MutexLock applying(applying_);
  put_targets(vm, *current_.get());
}

bool LivePolicy::reload() {
  const MutexLock changing(changing_);
  const auto before = origin();
  Configuration read = read_configuration(before->file.source, start_.state_dir);
  for (const std::string& problem : read.problems) log::error("{}", problem);
  if (!read.problems.empty()) {
    PolicyOrigin same = *before;
    std::erase_if(same.file.notices, [](const auto& notice) { return notice.code == "config"; });
    same.file.notices.push_back(not_taken(read));
    log::warn("{}; {}", same.file.notices.back().text, same.file.notices.back().remedy);
    const MutexLock lock(mutex_);
    origin_ = std::make_shared<const PolicyOrigin>(std::move(same));
    return false;
  }
  for (control::Reason& told : told_of_start(read, start_)) read.notices.push_back(std::move(told));
  for (const control::Reason& notice : read.notices)
    log::warn("{}; {}", notice.text, notice.remedy);
  PolicyOrigin after{std::move(read), before->set, {}};
  policy::WithSetValues made = made_of(after.file, after.set);
  warn_of(made.problems);
  after.problems = std::move(made.problems);
  log_changes(*config(), made.config);
  publish(std::move(after), std::move(made.config));
  log::info("the configuration was read anew");
  return before->file.broken.has_value();
}

control::Answer<void> LivePolicy::replace_set(std::vector<DecisionBook::Set> set) {
  const auto before = origin();
  PolicyOrigin after{before->file, std::move(set), {}};
  policy::WithSetValues made = made_of(after.file, after.set);
  for (const policy::KeyProblem& problem : made.problems) {
    if (std::ranges::find(before->problems, problem) == before->problems.end()) {
      return refuse_key(problem);
    }
  }
  if (Status written = decisions_.replace_set_values(after.set); !written) {
    return control::refuse(
        control::Failure::failed,
        "it cannot be written, so nothing has changed: " + written.error().text(),
        decisions_.unreadable() ? "`ramfold resume` begins a new file" : "make state_dir writable");
  }
  after.problems = std::move(made.problems);
  log_changes(*config(), made.config);
  publish(std::move(after), std::move(made.config));
  return {};
}

control::Answer<void> LivePolicy::set(const std::optional<VmKey>& vm,
                                      std::span<const std::string> assignments) {
  const MutexLock changing(changing_);
  const auto now = origin();
  auto changed = with_assignments(now->set, vm, assignments, now->file.source.path);
  if (!changed) return std::unexpected(std::move(changed.error()));
  return replace_set(std::move(*changed));
}

control::Answer<bool> LivePolicy::take_back(std::string_view name_or_uuid,
                                            std::span<const std::string> assignments) {
  const auto takes_back = [](const std::string& word) { return word.ends_with('='); };
  if (!std::ranges::all_of(assignments, takes_back)) return false;
  const MutexLock changing(changing_);
  std::vector<DecisionBook::Set> set = origin()->set;
  const auto of_it = [&](const DecisionBook::Set& one) {
    return one.vm &&
           (one.vm->name == name_or_uuid ||
            (!one.vm->uuid.empty() && one.vm->uuid == name_or_uuid)) &&
           std::ranges::find(assignments, one.key + "=") != assignments.end();
  };
  if (std::erase_if(set, of_it) == 0) return false;
  if (auto done = replace_set(std::move(set)); !done) return std::unexpected(done.error());
  return true;
}

}  // namespace ramfold::daemon
