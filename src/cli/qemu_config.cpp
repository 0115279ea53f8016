// SPDX-License-Identifier: GPL-2.0-or-later
#include "cli/qemu_config.hpp"

#include <fmt/core.h>

#include <optional>

#include "cli/host_files.hpp"

namespace ramfold::cli {
namespace {

std::string_view trimmed(std::string_view text) {
  const auto begin = text.find_first_not_of(" \t\r");
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(" \t\r") - begin + 1);
}

// The word between the first two quotes. Nothing when `text` does not begin with a quoted word.
std::optional<std::string_view> unquoted(std::string_view text) {
  if (text.size() < 2 || !text.starts_with('"')) return std::nullopt;
  const auto end = text.find('"', 1);
  if (end == std::string_view::npos) return std::nullopt;
  return text.substr(1, end - 1);  // QEMU ignores the rest, too
}

std::optional<ConfigGroup> group_of(std::string_view line) {
  const auto end = line.find(']');
  if (end == std::string_view::npos) return std::nullopt;
  const std::string_view inside = trimmed(line.substr(1, end - 1));
  const auto blank = inside.find(' ');
  ConfigGroup group{std::string(inside.substr(0, blank)), {}};
  if (group.name.empty()) return std::nullopt;
  if (blank != std::string_view::npos) {
    const auto id = unquoted(trimmed(inside.substr(blank)));
    if (!id) return std::nullopt;
    group.properties["id"] = *id;
  }
  return group;
}

}  // namespace

Result<std::vector<ConfigGroup>> parse_qemu_config(std::string_view text) {
  std::vector<ConfigGroup> groups;
  std::size_t number = 0;
  for (const std::string_view whole : lines_of(text)) {
    ++number;
    const std::string_view line = trimmed(whole);
    if (line.empty() || line.starts_with('#')) continue;
    if (line.starts_with('[')) {
      auto group = group_of(line);
      if (!group) return fail(fmt::format("line {} is no [group]", number));
      groups.push_back(std::move(*group));
      continue;
    }
    const auto equals = line.find('=');
    const auto value = equals == std::string_view::npos
                           ? std::nullopt
                           : unquoted(trimmed(line.substr(equals + 1)));
    const std::string_view key = trimmed(line.substr(0, equals));
    if (!value || key.empty() || groups.empty()) {
      return fail(fmt::format("line {} is no key = \"value\" of a group", number));
    }
    groups.back().properties[std::string(key)] = *value;
  }
  return groups;
}

}  // namespace ramfold::cli
