// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/report/policy_views.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <string_view>

#include "daemon/agents/attach.hpp"
#include "policy/choices.hpp"
#include "policy/key_effects.hpp"

namespace ramfold::daemon {
namespace {

using control::PolicyKeyView;
using Origin = control::PolicyOrigin;

control::PolicyTakes takes_of(const policy::KeyEffect& effect) {
  switch (effect.takes) {
    case policy::Takes::at_once: return control::PolicyTakes::at_once;
    case policy::Takes::at_attach: return control::PolicyTakes::at_attach;
    case policy::Takes::at_start: return control::PolicyTakes::at_start;
  }
  return control::PolicyTakes::at_start;
}

Origin origin_of(const PolicyOrigin& origin, std::string_view path) {
  const auto is_set = [path](const DecisionBook::Set& one) { return !one.vm && one.key == path; };
  if (std::ranges::any_of(origin.set, is_set)) return Origin::set;
  return origin.file.lines.contains(path) ? Origin::file : Origin::preset;
}

PolicyKeyView row_of(const policy::KeyEffect& effect, std::string value, Origin origin) {
  std::string_view key = effect.path;
  if (key.starts_with("vm.")) key.remove_prefix(3);
  return {std::string(key), std::move(value),        origin,
          takes_of(effect), std::string(effect.how), {}};
}

// The keys of one VM.
class VmRows {
 public:
  VmRows(const PolicyOrigin& origin, const VmKey& key) : origin_(origin), key_(key) {}

  // `given`: by a section of the file. `later`: the value after the next attach.
  // A key that the table of effects does not list has no row.
  void add(std::string_view path, std::string value, std::string later, bool given) {
    const policy::KeyEffect* const effect = policy::effect_of(path);
    if (effect == nullptr) return;
    PolicyKeyView row = row_of(*effect, std::move(value), from(path, given));
    if (later != row.in_force) row.pending = std::move(later);
    rows.push_back(std::move(row));
  }
  template <typename T, typename Given>
  void add(std::string_view path, T value, T later, const std::optional<Given>& given) {
    add(path, fmt::format("{}", value), fmt::format("{}", later), given.has_value());
  }
  void add(std::string_view path, ByteCount value, ByteCount later,
           const std::optional<ByteCount>& given) {
    add(path, fmt::format("{}", value.value), fmt::format("{}", later.value), given.has_value());
  }
  std::vector<PolicyKeyView> rows;

 private:
  Origin from(std::string_view path, bool given) const {
    const std::string_view name = path.substr(3);
    const auto is_set = [&](const DecisionBook::Set& one) {
      return one.vm && one.key == name && one.vm->is(key_);
    };
    if (std::ranges::any_of(origin_.set, is_set)) return Origin::set;
    if (given) return Origin::file;
    if (path == "vm.fold" || path == "vm.resident_floor") return Origin::preset;
    if (path == "vm.group") return origin_of(origin_, "groups.default");
    return origin_of(origin_, fmt::format("fold.{}", name));
  }

  const PolicyOrigin& origin_;
  const VmKey& key_;
};

}  // namespace

control::PolicyView policy_view(const LivePolicy& policy) {
  const auto origin = policy.origin();
  const auto config = policy.config();
  control::PolicyView view{origin->file.source.path, {}};
  for (const policy::KeyEffect& effect : policy::key_effects()) {
    if (effect.shown == nullptr) continue;
    view.keys.push_back(row_of(effect, effect.shown(*config), origin_of(*origin, effect.path)));
    if (effect.takes != policy::Takes::at_start) continue;
    const std::string later = effect.shown(origin->file.config);
    if (later != view.keys.back().in_force) view.keys.back().pending = later;
  }
  return view;
}

control::PolicyView policy_view(const LivePolicy& policy, const AttachedVm& vm, const VmKey& key) {
  const auto origin = policy.origin();
  const auto config = policy.config();
  const guest::VmRecord& record = vm.vm->record();
  const policy::VmClaim claim = claim_of(vm);
  const auto section =
      policy::override_that_holds(origin->file.config, claim).value_or(policy::VmOverride{});
  const policy::VmTargets now = vm.targets.load();
  const policy::VmTargets later = policy::vm_targets(*config, claim);
  VmRows rows(*origin, key);
  rows.add("vm.fold", now.fold, later.fold, section.fold);
  rows.add("vm.zero", now.zero, later.zero, section.zero);
  rows.add("vm.share", now.share, later.share, section.share);
  rows.add("vm.lz4", now.lz4, later.lz4, section.lz4);
  rows.add("vm.map", now.map, later.map, section.map);
  rows.add("vm.when", policy::word_of(now.when), policy::word_of(later.when), section.when);
  rows.add("vm.passes", now.passes, later.passes, section.passes);
  rows.add("vm.stall_budget", now.stall_budget, later.stall_budget, section.stall_budget);
  rows.add("vm.resident_floor", now.resident_floor, later.resident_floor, section.resident_floor);
  rows.add("vm.group", std::string(record.group),
           group_of(*config, {record.name, vm.uuid}, record.uid, VmId{record.vm}),
           section.group.has_value());
  return {origin->file.source.path, std::move(rows.rows)};
}

}  // namespace ramfold::daemon
