// SPDX-License-Identifier: GPL-2.0-or-later
#include "policy/set_values.hpp"

#include <utility>

namespace ramfold::policy {

WithSetValues with_set_values(const Config& file, const SetValues& set, UidOf uid_of) {
  WithSetValues result{file, {}};
  for (const auto& [key, value] : set.host) {
    if (auto problem = set_key(result.config, key, value)) {
      result.problems.push_back(std::move(*problem));
    }
  }
  if (auto problem = contradiction(result.config)) {
    result.problems.push_back(std::move(*problem));
    result.config.scan = file.scan;
  }
  std::vector<VmOverride> overrides;
  for (const VmValues& vm : set.vms) {
    const VmClaim claim{vm.name, vm.uuid, vm.uid, Vouched::no};
    VmOverride one = override_that_holds(result.config, claim, uid_of).value_or(VmOverride{});
    one.uuid = vm.uuid;
    one.name = vm.uuid.empty() ? vm.name : "";
    one.user.clear();
    one.uid = vm.uid;
    for (const auto& [key, value] : vm.values) {
      if (auto problem = set_key(one, key, value)) result.problems.push_back(std::move(*problem));
    }
    overrides.push_back(std::move(one));
  }
  // Of overrides that are equally exact the first holds.
  result.config.vms.insert(result.config.vms.begin(), overrides.begin(), overrides.end());
  return result;
}

}  // namespace ramfold::policy
