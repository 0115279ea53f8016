// SPDX-License-Identifier: GPL-2.0-or-later
// The names of the views' enumerators, in JSON and on the screen.
// Threads: constants.
#pragma once

#include <array>
#include <optional>
#include <string_view>
#include <utility>

#include "control/service.hpp"
#include "control/views.hpp"

namespace ramfold::control {

template <typename Enum>
using EnumName = std::pair<Enum, std::string_view>;

inline constexpr std::array kHostStates{
    EnumName<HostState>{HostState::starting, "starting"},
    EnumName<HostState>{HostState::idle, "idle"},
    EnumName<HostState>{HostState::folding, "folding"},
    EnumName<HostState>{HostState::paused, "paused"},
    EnumName<HostState>{HostState::observe_only, "observe-only"},
    EnumName<HostState>{HostState::unfolding, "unfolding"},
    EnumName<HostState>{HostState::off, "off"},
};
inline constexpr std::array kVmStates{
    EnumName<VmState>{VmState::connected, "connected"},
    EnumName<VmState>{VmState::attaching, "attaching"},
    EnumName<VmState>{VmState::observe_only, "observe-only"},
    EnumName<VmState>{VmState::idle, "idle"},
    EnumName<VmState>{VmState::folding, "folding"},
    EnumName<VmState>{VmState::paused, "paused"},
    EnumName<VmState>{VmState::unfolding, "unfolding"},
    EnumName<VmState>{VmState::detached, "detached"},
    EnumName<VmState>{VmState::failed, "failed"},
};
inline constexpr std::array kGateStates{
    EnumName<GateState>{GateState::unknown, "unknown"},
    EnumName<GateState>{GateState::pinned, "pinned"},
    EnumName<GateState>{GateState::closed, "closed"},
};
inline constexpr std::array kCheckOutcomes{
    EnumName<CheckOutcome>{CheckOutcome::passed, "passed"},
    EnumName<CheckOutcome>{CheckOutcome::failed, "failed"},
    EnumName<CheckOutcome>{CheckOutcome::skipped, "skipped"},
    EnumName<CheckOutcome>{CheckOutcome::not_run, "not-run"},
};
inline constexpr std::array kKeeperStates{
    EnumName<KeeperState>{KeeperState::absent, "absent"},
    EnumName<KeeperState>{KeeperState::connected, "connected"},
    EnumName<KeeperState>{KeeperState::holding, "holding"},
};
inline constexpr std::array kPolicyOrigins{
    EnumName<PolicyOrigin>{PolicyOrigin::preset, "default"},
    EnumName<PolicyOrigin>{PolicyOrigin::file, "file"},
    EnumName<PolicyOrigin>{PolicyOrigin::set, "set"},
};
inline constexpr std::array kPolicyTakes{
    EnumName<PolicyTakes>{PolicyTakes::at_once, "at-once"},
    EnumName<PolicyTakes>{PolicyTakes::at_attach, "at-attach"},
    EnumName<PolicyTakes>{PolicyTakes::at_start, "at-start"},
};
inline constexpr std::array kFailures{
    EnumName<Failure>{Failure::bad_request, "bad-request"},
    EnumName<Failure>{Failure::not_found, "not-found"},
    EnumName<Failure>{Failure::conflict, "conflict"},
    EnumName<Failure>{Failure::busy, "busy"},
    EnumName<Failure>{Failure::refused, "refused"},
    EnumName<Failure>{Failure::failed, "failed"},
};

constexpr const auto& names_of(HostState) noexcept { return kHostStates; }
constexpr const auto& names_of(VmState) noexcept { return kVmStates; }
constexpr const auto& names_of(GateState) noexcept { return kGateStates; }
constexpr const auto& names_of(CheckOutcome) noexcept { return kCheckOutcomes; }
constexpr const auto& names_of(KeeperState) noexcept { return kKeeperStates; }
constexpr const auto& names_of(PolicyOrigin) noexcept { return kPolicyOrigins; }
constexpr const auto& names_of(PolicyTakes) noexcept { return kPolicyTakes; }
constexpr const auto& names_of(Failure) noexcept { return kFailures; }

template <typename Enum>
constexpr std::string_view name_of(Enum value) noexcept {
  for (const auto& [known, name] : names_of(value)) {
    if (known == value) return name;
  }
  return "?";
}
template <typename Enum>
constexpr std::optional<Enum> value_of(std::string_view text) noexcept {
  for (const auto& [known, name] : names_of(Enum{})) {
    if (name == text) return known;
  }
  return std::nullopt;
}

}  // namespace ramfold::control
