// SPDX-License-Identifier: GPL-2.0-or-later
#include "cli/qemu_options.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <charconv>

#include "cli/qemu_config.hpp"

namespace ramfold::cli {
namespace {

struct KnownOption {
  std::string_view spelled;  // on the command line
  std::string_view name;     // in QemuOption
  const char* implied;       // the key of its first part, when that has no '='
  const char* question;      // the key whose value "help" is a question; nullptr: none is
  bool whole = false;        // the value has no keys, and is that of `implied`, commas and all
};
constexpr std::array kOptions{
    KnownOption{"object", "object", "qom-type", "qom-type"},
    KnownOption{"drive", "drive", "file", "format"},
    KnownOption{"blockdev", "blockdev", "driver", "driver"},
    KnownOption{"device", "device", "driver", "driver"},
    KnownOption{"netdev", "netdev", "type", "type"},
    KnownOption{"machine", "machine", "type", "type"},
    KnownOption{"M", "machine", "type", "type"},
    KnownOption{"overcommit", "overcommit", "", nullptr},
    KnownOption{"realtime", "realtime", "", nullptr},
    KnownOption{"name", "name", "guest", nullptr},
    KnownOption{"m", "m", "size", nullptr},
    KnownOption{"memory", "m", "size", nullptr},  // its group in a -readconfig file
    KnownOption{"numa", "numa", "type", nullptr},
    KnownOption{"uuid", "uuid", "uuid", nullptr},
    KnownOption{"mem-path", "mem-path", "path", nullptr, true},
    KnownOption{"incoming", "incoming", "uri", nullptr, true},
    KnownOption{"hda", "drive", "file", nullptr, true},
    KnownOption{"hdb", "drive", "file", nullptr, true},
    KnownOption{"hdc", "drive", "file", nullptr, true},
    KnownOption{"hdd", "drive", "file", nullptr, true},
    KnownOption{"cdrom", "drive", "file", nullptr, true},
    KnownOption{"fda", "drive", "file", nullptr, true},
    KnownOption{"fdb", "drive", "file", nullptr, true},
    KnownOption{"pflash", "drive", "file", nullptr, true},
    KnownOption{"mtdblock", "drive", "file", nullptr, true},
    KnownOption{"sd", "drive", "file", nullptr, true},
    KnownOption{"cpu", "cpu", "model", "model"},
    KnownOption{"chardev", "chardev", "backend", "backend"},
    KnownOption{"accel", "accel", "accel", "accel"},
};
// Options whose value may begin with a dash.
constexpr std::array<std::string_view, 6> kAnyValue{"append", "kernel",  "initrd",
                                                    "fw_cfg", "pidfile", "readconfig"};
constexpr std::array<std::string_view, 4> kQuestions{"version", "help", "h", "audio-help"};

const KnownOption* known_as(std::string_view spelled) {
  const auto found = std::ranges::find(kOptions, spelled, &KnownOption::spelled);
  return found == kOptions.end() ? nullptr : &*found;
}

bool is_question(std::string_view word) { return word == "help" || word == "?"; }

bool asks(const KnownOption& option, const Properties& properties) {
  if (option.question == nullptr) return false;
  if (is_question(value_of(properties, option.question))) return true;
  // "-device e1000,help"
  return value_of(properties, "help") == "on" || value_of(properties, "?") == "on";
}

class Collector {
 public:
  explicit Collector(const ConfigReader& read) : read_(read) {}

  QemuOptions collect(std::span<const std::string> arguments) && {
    for (std::size_t i = 1; i < arguments.size(); ++i) {
      std::string_view name = arguments[i];
      if (!name.starts_with('-')) continue;
      name.remove_prefix(name.starts_with("--") ? 2 : 1);
      found_.flags.insert(std::string(name));
      if (std::ranges::find(kQuestions, name) != kQuestions.end()) found_.probing = true;
      const KnownOption* known = known_as(name);
      const bool takes_any = std::ranges::find(kAnyValue, name) != kAnyValue.end();
      if ((known == nullptr && !takes_any) || i + 1 == arguments.size()) continue;
      const std::string& value = arguments[++i];
      if (name == "readconfig") config(value);
      if (known == nullptr) continue;
      if (known->whole) {
        found_.options.push_back({known->name, {{known->implied, value}}});
      } else {
        add(*known, parse_properties(value, known->implied));
      }
    }
    return std::move(found_);
  }

 private:
  void add(const KnownOption& known, Properties properties) {
    if (asks(known, properties)) found_.probing = true;
    found_.options.push_back({known.name, std::move(properties)});
  }

  void config(const std::string& path) {
    const auto text = read_ ? read_(path) : Result<std::string>(fail("it was not looked for"));
    if (!text) return unread(path, text.error());
    auto groups = parse_qemu_config(*text);
    if (!groups) return unread(path, groups.error());
    for (ConfigGroup& group : *groups) {
      found_.flags.insert(group.name);
      const KnownOption* known = known_as(group.name);
      if (known != nullptr) add(*known, std::move(group.properties));
    }
  }

  void unread(const std::string& path, const Error& error) {
    found_.unread.push_back(fmt::format("{}: {}", path, error.text()));
  }

  const ConfigReader& read_;
  QemuOptions found_;
};

}  // namespace

std::string QemuOptions::last(std::string_view option, const std::string& key) const {
  std::string value;
  for (const QemuOption& one : options) {
    if (one.name == option && one.properties.contains(key)) value = value_of(one.properties, key);
  }
  return value;
}

QemuOptions read_options(std::span<const std::string> arguments, const ConfigReader& read) {
  return Collector(read).collect(arguments);
}

ByteCount size_of(std::string_view text, std::uint64_t unit) {
  if (text.starts_with("0x")) {
    std::uint64_t bytes = 0;
    const auto [end, error] =
        std::from_chars(text.data() + 2, text.data() + text.size(), bytes, 16);
    return ByteCount{error == std::errc{} && end == text.data() + text.size() ? bytes : 0};
  }
  double number = 0;
  const auto [end, error] =
      std::from_chars(text.data(), text.data() + text.size(), number, std::chars_format::fixed);
  if (error != std::errc{} || number < 0 || number > 1e15) return {};
  const std::string_view suffix = text.substr(static_cast<std::size_t>(end - text.data()));
  if (!suffix.empty()) {
    switch (suffix.front()) {
      case 'b':
      case 'B': unit = 1; break;
      case 'k':
      case 'K': unit = 1ull << 10; break;
      case 'm':
      case 'M': unit = 1ull << 20; break;
      case 'g':
      case 'G': unit = 1ull << 30; break;
      case 't':
      case 'T': unit = 1ull << 40; break;
      default: return {};
    }
  }
  const double bytes = number * static_cast<double>(unit);
  return ByteCount{bytes > 1e18 ? 0 : static_cast<std::uint64_t>(bytes)};
}

}  // namespace ramfold::cli
