// SPDX-License-Identifier: GPL-2.0-or-later
#include "cli/qemu_properties.hpp"

#include <cstddef>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

namespace ramfold::cli {
namespace {

using Json = nlohmann::json;

std::string text_of(const Json& value) {
  if (value.is_boolean()) return value.get<bool>() ? "on" : "off";
  if (const auto* text = value.get_ptr<const std::string*>()) return *text;
  return value.dump(-1, ' ', false, Json::error_handler_t::replace);
}

// A process chooses its own command line, and root reads it, so the work is bounded. Real graphs
// have tens of keys, of tens of bytes.
constexpr std::size_t kPathMax = 1024;
constexpr std::size_t kPropertiesMax = 4096;

Properties from_json(std::string_view text) {
  Properties properties;
  const Json root = Json::parse(text, nullptr, false);
  if (!root.is_object()) return properties;
  std::vector<std::pair<std::string, const Json*>> open{{"", &root}};  // a stack, not recursion
  while (!open.empty()) {
    const auto [prefix, parent] = open.back();
    open.pop_back();
    for (const auto& [key, value] : parent->items()) {  // in a list, the key is the index
      if (open.size() + properties.size() > kPropertiesMax) return properties;
      const std::string path = prefix.empty() ? key : prefix + "." + key;
      if (value.is_structured() && path.size() < kPathMax) {
        open.emplace_back(path, &value);
      } else if (!value.is_structured()) {
        properties[path] = text_of(value);
      }
    }
  }
  return properties;
}

}  // namespace

Properties parse_properties(std::string_view text, const std::string& implied) {
  if (text.starts_with('{')) return from_json(text);
  Properties properties;
  std::string part;
  bool first = true;
  const auto finish = [&] {
    const auto equals = part.find('=');
    if (equals != std::string::npos) {
      properties[part.substr(0, equals)] = part.substr(equals + 1);
    } else if (first && !implied.empty()) {
      properties[implied] = part;
    } else if (part.starts_with("no") && part.size() > 2) {
      properties[part.substr(2)] = "off";
    } else if (!part.empty()) {
      properties[part] = "on";
    }
    part.clear();
    first = false;
  };
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] != ',') {
      part += text[i];
    } else if (i + 1 < text.size() && text[i + 1] == ',') {
      part += text[i++];
    } else {
      finish();
    }
  }
  finish();
  return properties;
}

std::string value_of(const Properties& properties, const std::string& key) {
  const auto found = properties.find(key);
  return found == properties.end() ? std::string() : found->second;
}

bool is_on(const Properties& properties, const std::string& key) {
  const std::string value = value_of(properties, key);
  return value == "on" || value == "yes" || value == "true" || value == "y";
}

bool is_off(const Properties& properties, const std::string& key) {
  const std::string value = value_of(properties, key);
  return value == "off" || value == "no" || value == "false" || value == "n";
}

}  // namespace ramfold::cli
