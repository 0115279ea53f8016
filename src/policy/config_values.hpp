// SPDX-License-Identifier: GPL-2.0-or-later
// Checks and sets values. Each function sets `to` from a node of the file and returns true; or it
// leaves `to` alone and returns false, because the value is not allowed. Only config.cpp includes
// this file, so that only config.cpp compiles toml++.
// Threads: any; no state.
#pragma once

#include <toml++/toml.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "policy/amount.hpp"
#include "policy/choices.hpp"
#include "policy/targets.hpp"

namespace ramfold::policy {

inline bool set_bool(bool& to, const toml::node& node) {
  const auto value = node.value_exact<bool>();
  if (value) to = *value;
  return value.has_value();
}

// A key of [[vm]], set as the key of all VMs.
template <typename T>
bool set_optional(std::optional<T>& to, const auto& set) {
  T value{};
  if (!set(value)) return false;
  to = value;
  return true;
}

inline bool set_bool(std::optional<bool>& to, const toml::node& node) {
  return set_optional(to, [&](bool& value) { return set_bool(value, node); });
}

inline bool set_double(double& to, const toml::node& node, double least, double most) {
  if (!node.is_number()) return false;
  const double value = node.value<double>().value_or(std::nan(""));
  if (!(value >= least && value <= most)) return false;
  to = value;
  return true;
}

inline bool set_unsigned(unsigned& to, const toml::node& node, unsigned least, unsigned most) {
  const auto value = node.value_exact<std::int64_t>();
  if (!value || *value < least || *value > most) return false;
  to = static_cast<unsigned>(*value);
  return true;
}

inline constexpr std::string_view kPassesAllowed = "a whole number from 1 to 16";

inline bool set_passes(unsigned& to, const toml::node& node) {
  return set_unsigned(to, node, 1, 16);
}
inline bool set_passes(std::optional<unsigned>& to, const toml::node& node) {
  return set_optional(to, [&](unsigned& value) { return set_passes(value, node); });
}

inline bool set_amount(MemoryAmount& to, const toml::node& node, double percent_max) {
  std::optional<MemoryAmount> amount;
  if (const auto bytes = node.value_exact<std::int64_t>()) {
    if (*bytes >= 0) amount = parse_amount(std::to_string(*bytes));
  } else if (const auto text = node.value_exact<std::string>()) {
    amount = parse_amount(*text);
  }
  if (!amount || (amount->relative() && amount->percent() > percent_max)) return false;
  to = *amount;
  return true;
}

inline bool set_bytes(std::optional<ByteCount>& to, const toml::node& node) {
  MemoryAmount amount = MemoryAmount::of_bytes(ByteCount{0});
  if (!set_amount(amount, node, 100) || amount.relative()) return false;
  to = amount.resolve(ByteCount{0});
  return true;
}

// Above 1 for a VM whose vCPUs are not known: it counts as one vCPU. 100 is as good as no budget.
inline constexpr std::string_view kStallBudgetAllowed =
    "a share of wall time from 0.0001 to 100; 0.01 is 1 %";

inline bool set_stall_budget(double& to, const toml::node& node) {
  return set_double(to, node, 0.0001, 100);
}
inline bool set_stall_budget(std::optional<double>& to, const toml::node& node) {
  return set_optional(to, [&](double& value) { return set_stall_budget(value, node); });
}

template <typename Enum, std::size_t N>
inline bool set_choice(Enum& to, const toml::node& node,
                       const std::array<Choice<Enum>, N>& choices) {
  const auto text = node.value_exact<std::string>();
  if (!text) return false;
  for (const auto& choice : choices) {
    if (choice.name == *text) {
      to = choice.value;
      return true;
    }
  }
  return false;
}
template <typename Enum, std::size_t N>
inline bool set_choice(std::optional<Enum>& to, const toml::node& node,
                       const std::array<Choice<Enum>, N>& choices) {
  return set_optional(to, [&](Enum& value) { return set_choice(value, node, choices); });
}

inline constexpr std::string_view kWhenAllowed = "\"pressure\" or \"eager\"";

inline bool is_word(std::string_view text, std::size_t size_max) {
  const auto fits = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           c == '-' || c == '.';
  };
  return !text.empty() && text.size() <= size_max && std::all_of(text.begin(), text.end(), fits);
}

inline bool set_word(std::string& to, const toml::node& node, std::size_t size_max) {
  const auto text = node.value_exact<std::string>();
  if (!text || !is_word(*text, size_max)) return false;
  to = *text;
  return true;
}

// sun_path holds 107 bytes, "/control.sock" is the longest name in it.
inline constexpr std::size_t kRuntimeDirMax = 90;

inline constexpr std::size_t kStateDirMax = 1024;

inline bool set_directory(std::string& to, const toml::node& node, std::size_t size_max) {
  const auto text = node.value_exact<std::string>();
  if (!text || text->size() < 2 || text->front() != '/' || text->back() == '/') return false;
  if (text->size() > size_max || text->find('\n') != std::string::npos) return false;
  to = *text;
  return true;
}

inline bool set_uuid(std::string& to, const toml::node& node) {
  const auto text = node.value_exact<std::string>();
  const std::string uuid = normal_uuid(text.value_or(""));
  if (uuid.empty()) return false;
  to = uuid;
  return true;
}

// A name that useradd(8) accepts, with or without a final $.
inline bool set_user(std::string& to, const toml::node& node) {
  const auto text = node.value_exact<std::string>();
  if (!text) return false;
  std::string_view word = *text;
  if (word.ends_with('$')) word.remove_suffix(1);
  if (!is_word(word, 255)) return false;
  to = *text;
  return true;
}

inline bool set_uid(std::optional<std::uint32_t>& to, const toml::node& node) {
  const auto value = node.value_exact<std::int64_t>();
  // The largest number means "no uid" in system calls.
  if (!value || *value < 0 || *value >= std::int64_t{0xffff'ffff}) return false;
  to = static_cast<std::uint32_t>(*value);
  return true;
}

inline constexpr std::size_t kVmNameMax = 256;

inline bool set_vm_name(std::string& to, const toml::node& node) {
  const auto text = node.value_exact<std::string>();
  if (!text || text->empty() || text->size() > kVmNameMax) return false;
  to = *text;
  return true;
}

inline bool set_group(std::optional<std::string>& to, const toml::node& node) {
  return set_optional(to, [&](std::string& name) { return set_word(name, node, 64); });
}

}  // namespace ramfold::policy
