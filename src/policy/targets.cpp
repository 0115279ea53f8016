// SPDX-License-Identifier: GPL-2.0-or-later
#include "policy/targets.hpp"

#include <fmt/format.h>
#include <pwd.h>

#include <algorithm>
#include <cerrno>

namespace ramfold::policy {
namespace {

constexpr std::size_t kPasswdBytesFirst = 1024;
constexpr std::size_t kPasswdBytesMax = 64 * 1024;  // more than any account needs

bool is_owner(const VmOverride& vm, std::uint32_t uid, UidOf uid_of) {
  if (vm.uid) return *vm.uid == uid;
  return vm.user.empty() || uid_of(vm.user) == uid;
}

bool says_it_is(const VmOverride& vm, const VmClaim& claim) {
  if (!vm.uuid.empty()) return vm.uuid == claim.uuid && (vm.name.empty() || vm.name == claim.name);
  return !vm.name.empty() && vm.name == claim.name;
}

int exactness(const VmOverride& vm) {
  return (vm.uuid.empty() ? 0 : 2) + (vm.names_owner() ? 1 : 0);
}

const VmOverride* override_of(const Config& config, const VmClaim& claim, UidOf uid_of) {
  const VmOverride* best = nullptr;
  for (const VmOverride& vm : config.vms) {
    if (best != nullptr && exactness(vm) <= exactness(*best)) continue;
    if (says_it_is(vm, claim) && is_owner(vm, claim.uid, uid_of)) best = &vm;
  }
  return best;
}

bool is_trusted(const VmOverride& vm, const VmClaim& claim) {
  return vm.names_owner() || claim.vouched == Vouched::yes;
}

VmTargets defaults(const Config& config) {
  return {.fold = true,
          .zero = config.fold.zero,
          .share = config.fold.share,
          .lz4 = config.fold.lz4,
          .map = config.fold.map,
          .when = config.fold.when,
          .passes = config.fold.passes,
          .stall_budget = config.fold.stall_budget,
          .resident_floor = ByteCount{0}};
}

// Keys of `vm` that do not hold for a VM that only claims the name: "group, lz4". Empty: none.
std::string withheld_keys(const VmOverride& vm, const VmTargets& host) {
  std::string keys;
  const auto withhold = [&keys](std::string_view key) {
    if (!keys.empty()) keys += ", ";
    keys += key;
  };
  if (vm.group) withhold("group");
  if (vm.zero.value_or(false) && !host.zero) withhold("zero");
  if (vm.share.value_or(false) && !host.share) withhold("share");
  if (vm.lz4.value_or(false) && !host.lz4) withhold("lz4");
  if (vm.map.value_or(false) && !host.map) withhold("map");
  if (vm.when == FoldWhen::eager && host.when != FoldWhen::eager) withhold("when");
  if (vm.passes.value_or(host.passes) < host.passes) withhold("passes");
  if (vm.stall_budget.value_or(0) > host.stall_budget) withhold("stall_budget");
  return keys;
}

}  // namespace

std::string normal_uuid(std::string_view text) {
  if (text.size() != 36) return {};
  std::string lower(text);
  for (std::size_t i = 0; i < lower.size(); ++i) {
    char& c = lower[i];
    if (c >= 'A' && c <= 'F') c = static_cast<char>(c - 'A' + 'a');
    const bool dash = i == 8 || i == 13 || i == 18 || i == 23;
    const bool hex = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
    if (dash ? c != '-' : !hex) return {};
  }
  return lower;
}

std::optional<std::uint32_t> uid_of_user(const std::string& user) {
  std::vector<char> buffer(kPasswdBytesFirst);
  for (;;) {
    passwd entry{};
    passwd* found = nullptr;
    const int code = ::getpwnam_r(user.c_str(), &entry, buffer.data(), buffer.size(), &found);
    if (code == ERANGE && buffer.size() < kPasswdBytesMax) {
      buffer.resize(buffer.size() * 2);
      continue;
    }
    if (code != 0 || found == nullptr) return std::nullopt;
    return found->pw_uid;
  }
}

std::optional<VmOverride> override_that_holds(const Config& config, const VmClaim& claim,
                                              UidOf uid_of) {
  const VmOverride* const found = override_of(config, claim, uid_of);
  if (found == nullptr) return std::nullopt;
  VmOverride vm = *found;
  if (is_trusted(vm, claim)) return vm;
  vm.group.reset();
  for (auto* const value : {&vm.fold, &vm.zero, &vm.share, &vm.lz4, &vm.map}) {
    if (value->value_or(false)) value->reset();
  }
  if (vm.when == FoldWhen::eager) vm.when.reset();
  if (vm.passes) vm.passes = std::max(*vm.passes, config.fold.passes);
  if (vm.stall_budget) vm.stall_budget = std::min(*vm.stall_budget, config.fold.stall_budget);
  return vm;
}

VmTargets vm_targets(const Config& config, const VmClaim& claim, UidOf uid_of) {
  VmTargets targets = defaults(config);
  const auto vm = override_that_holds(config, claim, uid_of);
  if (!vm) return targets;
  targets.fold = vm->fold.value_or(targets.fold);
  targets.zero = vm->zero.value_or(targets.zero);
  targets.share = vm->share.value_or(targets.share);
  targets.lz4 = vm->lz4.value_or(targets.lz4);
  targets.map = vm->map.value_or(targets.map);
  targets.when = vm->when.value_or(targets.when);
  targets.passes = vm->passes.value_or(targets.passes);
  targets.stall_budget = vm->stall_budget.value_or(targets.stall_budget);
  targets.resident_floor = vm->resident_floor.value_or(ByteCount{0});
  return targets;
}

std::optional<std::string> vm_group(const Config& config, const VmClaim& claim, UidOf uid_of) {
  const auto vm = override_that_holds(config, claim, uid_of);
  return vm ? vm->group : std::nullopt;
}

std::vector<std::string> override_complaints(const Config& config, std::string_view source,
                                             UidOf uid_of) {
  std::vector<std::string> complaints;
  const VmTargets host = defaults(config);
  for (const VmOverride& vm : config.vms) {
    const std::string where =
        fmt::format("{}:{}: [[vm]] '{}'", source, vm.line, vm.name.empty() ? vm.uuid : vm.name);
    if (!vm.user.empty() && !uid_of(vm.user)) {
      complaints.push_back(fmt::format(
          "{}: there is no account '{}', so it holds for no VM; correct user, or write uid = N",
          where, vm.user));
    }
    const std::string keys = withheld_keys(vm, host);
    if (keys.empty() || vm.names_owner()) continue;
    complaints.push_back(fmt::format(
        "{}: {} does not hold, since any user can give a VM that name; add the VM's owner: "
        "user = \"...\" or uid = N",
        where, keys));
  }
  return complaints;
}

WorkTargets work_targets(const Config& config) {
  return {config.fold.backoff_passes_max(), config.fold.pass_seconds, config.scan.cpu,
          config.scan.threads, config.scan.referenced};
}

HostTargets host_targets(const Config& config, ByteCount host_ram) {
  return {config.fold.when, config.fold.keep_available.resolve(host_ram),
          config.host.reserve.resolve(host_ram), config.host.unbacked_max.resolve(host_ram)};
}

}  // namespace ramfold::policy
