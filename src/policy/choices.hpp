// SPDX-License-Identifier: GPL-2.0-or-later
// The words that stand for the choices of the configuration.
// Threads: constants.
#pragma once

#include <array>
#include <string_view>

#include "policy/config.hpp"

namespace ramfold::policy {

template <typename Enum>
struct Choice {
  std::string_view name;
  Enum value;
};

inline constexpr std::array kLogLevels{
    Choice<LogLevel>{"error", LogLevel::error}, Choice<LogLevel>{"warning", LogLevel::warning},
    Choice<LogLevel>{"info", LogLevel::info}, Choice<LogLevel>{"debug", LogLevel::debug}};
inline constexpr std::array kFoldWhens{Choice<FoldWhen>{"pressure", FoldWhen::pressure},
                                       Choice<FoldWhen>{"eager", FoldWhen::eager}};
inline constexpr std::array kReferenced{Choice<Referenced>{"off", Referenced::off},
                                        Choice<Referenced>{"auto", Referenced::automatic},
                                        Choice<Referenced>{"forget", Referenced::forget},
                                        Choice<Referenced>{"page_idle", Referenced::page_idle},
                                        Choice<Referenced>{"rwp", Referenced::rwp}};
inline constexpr std::array kReformPresets{Choice<ReformPreset>{"off", ReformPreset::off},
                                           Choice<ReformPreset>{"balanced", ReformPreset::balanced},
                                           Choice<ReformPreset>{"dense", ReformPreset::dense}};
inline constexpr std::array kGroupDefaults{Choice<GroupDefault>{"owner", GroupDefault::owner},
                                           Choice<GroupDefault>{"vm", GroupDefault::vm}};

constexpr const auto& choices_of(LogLevel) noexcept { return kLogLevels; }
constexpr const auto& choices_of(FoldWhen) noexcept { return kFoldWhens; }
constexpr const auto& choices_of(Referenced) noexcept { return kReferenced; }
constexpr const auto& choices_of(ReformPreset) noexcept { return kReformPresets; }
constexpr const auto& choices_of(GroupDefault) noexcept { return kGroupDefaults; }

template <typename Enum>
constexpr std::string_view word_of(Enum value) noexcept {
  for (const auto& choice : choices_of(value)) {
    if (choice.value == value) return choice.name;
  }
  return "?";
}

}  // namespace ramfold::policy
