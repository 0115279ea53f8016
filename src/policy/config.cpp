// SPDX-License-Identifier: GPL-2.0-or-later
#include "policy/config.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>

#include "policy/config_keys.hpp"
#include "policy/config_values.hpp"
#include "policy/suggest.hpp"

namespace ramfold::policy {

using namespace std::string_view_literals;
namespace {

// --- the keys ------------------------------------------------------------------------------------

template <typename Target>
struct Key {
  KeyInfo info;
  bool (*set)(Target&, const toml::node&);
};

constexpr std::string_view kBoolAllowed = "true or false";
constexpr std::string_view kOldSection = "gate";  // it held grace_seconds alone
using Node = toml::node;

const std::array kKeys{
    Key<Config>{
        {"runtime_dir", "an absolute path of at most 90 bytes without a final /"},
        [](Config& c, const Node& n) { return set_directory(c.runtime_dir, n, kRuntimeDirMax); }},
    Key<Config>{
        {"state_dir", "an absolute path of at most 1024 bytes without a final /"},
        [](Config& c, const Node& n) { return set_directory(c.state_dir, n, kStateDirMax); }},
    Key<Config>{{"control_group", "the name of a group: letters, digits, _ - ."},
                [](Config& c, const Node& n) { return set_word(c.control_group, n, 32); }},
    Key<Config>{{"agent_group", "the name of a group: letters, digits, _ - ."},
                [](Config& c, const Node& n) { return set_word(c.agent_group, n, 32); }},
    Key<Config>{{"log_level", "\"error\", \"warning\", \"info\" or \"debug\""},
                [](Config& c, const Node& n) { return set_choice(c.log_level, n, kLogLevels); }},
    Key<Config>{{"fold.when", kWhenAllowed},
                [](Config& c, const Node& n) { return set_choice(c.fold.when, n, kFoldWhens); }},
    Key<Config>{{"fold.keep_available", kAmountAllowed},
                [](Config& c, const Node& n) { return set_amount(c.fold.keep_available, n, 95); }},
    Key<Config>{{"fold.passes", kPassesAllowed},
                [](Config& c, const Node& n) { return set_passes(c.fold.passes, n); }},
    Key<Config>{
        {"fold.pass_seconds", "a number of seconds from 0.1 to 86400"},
        [](Config& c, const Node& n) { return set_double(c.fold.pass_seconds, n, 0.1, 86400); }},
    Key<Config>{{"fold.backoff", kBoolAllowed},
                [](Config& c, const Node& n) { return set_bool(c.fold.backoff, n); }},
    Key<Config>{{"fold.backoff_seconds_max", "a number of seconds from 1 to 86400"},
                [](Config& c, const Node& n) {
                  return set_double(c.fold.backoff_seconds_max, n, 1, 86400);
                }},
    Key<Config>{{"fold.zero", kBoolAllowed},
                [](Config& c, const Node& n) { return set_bool(c.fold.zero, n); }},
    Key<Config>{{"fold.share", kBoolAllowed},
                [](Config& c, const Node& n) { return set_bool(c.fold.share, n); }},
    Key<Config>{{"fold.lz4", kBoolAllowed},
                [](Config& c, const Node& n) { return set_bool(c.fold.lz4, n); }},
    Key<Config>{{"fold.map", kBoolAllowed},
                [](Config& c, const Node& n) { return set_bool(c.fold.map, n); }},
    Key<Config>{{"fold.stall_budget", kStallBudgetAllowed},
                [](Config& c, const Node& n) { return set_stall_budget(c.fold.stall_budget, n); }},
    Key<Config>{
        {"reform.policy", "\"off\", \"balanced\" or \"dense\""},
        [](Config& c, const Node& n) { return set_choice(c.reform.policy, n, kReformPresets); }},
    Key<Config>{{"reform.cpu", "a share of one core from 0.01 to 1"},
                [](Config& c, const Node& n) { return set_double(c.reform.cpu, n, 0.01, 1); }},
    Key<Config>{{"reform.similar", kBoolAllowed},
                [](Config& c, const Node& n) { return set_bool(c.reform.similar, n); }},
    Key<Config>{{"reform.zstd", kBoolAllowed},
                [](Config& c, const Node& n) { return set_bool(c.reform.zstd, n); }},
    Key<Config>{{"reform.mix", kBoolAllowed},
                [](Config& c, const Node& n) { return set_bool(c.reform.mix, n); }},
    Key<Config>{{"scan.cpu", "a share of one core from 0.01 to 64, no more than scan.threads"},
                [](Config& c, const Node& n) { return set_double(c.scan.cpu, n, 0.01, 64); }},
    Key<Config>{{"scan.threads", "a whole number from 1 to 64"},
                [](Config& c, const Node& n) { return set_unsigned(c.scan.threads, n, 1, 64); }},
    Key<Config>{
        {"scan.referenced", "\"off\", \"auto\", \"forget\", \"page_idle\" or \"rwp\""},
        [](Config& c, const Node& n) { return set_choice(c.scan.referenced, n, kReferenced); }},
    Key<Config>{
        {"fault.threads_per_vm", "a whole number from 1 to 16"},
        [](Config& c, const Node& n) { return set_unsigned(c.fault.threads_per_vm, n, 1, 16); }},
    Key<Config>{{"host.reserve", kAmountAllowed},
                [](Config& c, const Node& n) { return set_amount(c.host.reserve, n, 90); }},
    Key<Config>{{"host.unbacked_max", kAmountAllowed},
                [](Config& c, const Node& n) { return set_amount(c.host.unbacked_max, n, 100); }},
    Key<Config>{{"host.arena_max", kAmountAllowed},
                [](Config& c, const Node& n) { return set_amount(c.host.arena_max, n, 95); }},
    Key<Config>{{"host.vm_ram_factor_max", "a number from 0.01 to 1024"},
                [](Config& c, const Node& n) {
                  return set_double(c.host.vm_ram_factor_max, n, 0.01, 1024);
                }},
    Key<Config>{{"host.vm_kept_factor_max", "a number from 0.01 to 16"},
                [](Config& c, const Node& n) {
                  return set_double(c.host.vm_kept_factor_max, n, 0.01, 16);
                }},
    Key<Config>{
        {"groups.default", "\"owner\" or \"vm\""},
        [](Config& c, const Node& n) { return set_choice(c.group_default, n, kGroupDefaults); }},
};

const std::array kVmKeys{
    Key<VmOverride>{{"vm.name", "QEMU's -name (guest=), 1 to 256 bytes"},
                    [](VmOverride& v, const Node& n) { return set_vm_name(v.name, n); }},
    Key<VmOverride>{{"vm.uuid", "QEMU's -uuid, such as \"8d1b3a54-6c2e-4f0a-9b7d-0c5e2f1a3b4c\""},
                    [](VmOverride& v, const Node& n) { return set_uuid(v.uuid, n); }},
    Key<VmOverride>{{"vm.user", "the name of the account that QEMU runs under"},
                    [](VmOverride& v, const Node& n) { return set_user(v.user, n); }},
    Key<VmOverride>{{"vm.uid", "the number of the account that QEMU runs under, 0 to 4294967294"},
                    [](VmOverride& v, const Node& n) { return set_uid(v.uid, n); }},
    Key<VmOverride>{{"vm.group", "a name of 1 to 64 letters, digits, _ - ."},
                    [](VmOverride& v, const Node& n) { return set_group(v.group, n); }},
    Key<VmOverride>{{"vm.fold", kBoolAllowed},
                    [](VmOverride& v, const Node& n) { return set_bool(v.fold, n); }},
    Key<VmOverride>{{"vm.zero", kBoolAllowed},
                    [](VmOverride& v, const Node& n) { return set_bool(v.zero, n); }},
    Key<VmOverride>{{"vm.share", kBoolAllowed},
                    [](VmOverride& v, const Node& n) { return set_bool(v.share, n); }},
    Key<VmOverride>{{"vm.lz4", kBoolAllowed},
                    [](VmOverride& v, const Node& n) { return set_bool(v.lz4, n); }},
    Key<VmOverride>{{"vm.map", kBoolAllowed},
                    [](VmOverride& v, const Node& n) { return set_bool(v.map, n); }},
    Key<VmOverride>{{"vm.when", kWhenAllowed},
                    [](VmOverride& v, const Node& n) { return set_choice(v.when, n, kFoldWhens); }},
    Key<VmOverride>{{"vm.passes", kPassesAllowed},
                    [](VmOverride& v, const Node& n) { return set_passes(v.passes, n); }},
    Key<VmOverride>{
        {"vm.stall_budget", kStallBudgetAllowed},
        [](VmOverride& v, const Node& n) { return set_stall_budget(v.stall_budget, n); }},
    Key<VmOverride>{{"vm.resident_floor",
                     "bytes (4294967296), or a string with KiB, MiB, GiB or TiB (\"4 GiB\")"},
                    [](VmOverride& v, const Node& n) { return set_bytes(v.resident_floor, n); }},
};

// --- reading -------------------------------------------------------------------------------------

std::string shown(const toml::node& node) {
  if (const auto text = node.value_exact<std::string>()) return fmt::format("\"{}\"", *text);
  if (const auto flag = node.value_exact<bool>()) return *flag ? "true" : "false";
  if (const auto number = node.value_exact<std::int64_t>()) return std::to_string(*number);
  if (const auto number = node.value_exact<double>()) return fmt::format("{}", *number);
  if (node.is_table()) return "a table";
  if (node.is_array()) return "an array";
  return "a date or time";
}

class Reader {
 public:
  explicit Reader(std::string_view source) : source_(source) {}

  void read(const toml::table& root, Config& config) {
    for (const auto& [name, node] : root) {
      const std::string key(name.str());
      if (key == "vm") {
        read_vms(node, config);
      } else if (is_section(key) || key == kOldSection) {
        read_section(key, node, config);
      } else {
        read_key(kKeys, key, node, config);
      }
    }
    check_together(root, config);
  }

  std::vector<std::string> take_problems() { return std::move(problems_); }
  std::map<std::string, unsigned, std::less<>> take_lines() { return std::move(lines_); }

 private:
  static bool is_section(std::string_view name) {
    return std::any_of(kKeys.begin(), kKeys.end(), [&](const Key<Config>& key) {
      return key.info.path.starts_with(name) && key.info.path.substr(name.size()).starts_with('.');
    });
  }

  void read_section(const std::string& section, const toml::node& node, Config& config) {
    const toml::table* table = node.as_table();
    if (table == nullptr) {
      problem(
          node, section,
          fmt::format("{} is not a section; write [{}] and its keys below", shown(node), section));
      return;
    }
    for (const auto& [name, value] : *table) {
      read_key(kKeys, section + "." + std::string(name.str()), value, config);
    }
  }

  void read_vms(const toml::node& node, Config& config) {
    const toml::array* vms = node.as_array();
    if (vms == nullptr ||
        !std::all_of(vms->begin(), vms->end(), [](const toml::node& n) { return n.is_table(); })) {
      problem(node, "vm", "is a list of tables; write [[vm]], with two pairs of brackets");
      return;
    }
    if (vms->size() > kVmOverridesMax) {
      problem(node, "vm",
              fmt::format("there are more than {} of them; join some by group", kVmOverridesMax));
      return;
    }
    for (const toml::node& vm : *vms) read_vm(*vm.as_table(), config);
  }

  void read_vm(const toml::table& table, Config& config) {
    VmOverride vm;
    vm.line = table.source().begin.line;
    for (const auto& [name, value] : table) {
      read_key(kVmKeys, "vm." + std::string(name.str()), value, vm);
    }
    if (!table.contains("name") && !table.contains("uuid")) {
      problem(table, "vm", "names no VM; add name = \"...\" or uuid = \"...\"");
    }
    for (const VmOverride& other : config.vms) {
      if (vm.user != other.user || vm.uid != other.uid) continue;
      if ((!vm.uuid.empty() && vm.uuid == other.uuid) ||
          (vm.uuid.empty() && other.uuid.empty() && !vm.name.empty() && vm.name == other.name)) {
        problem(table, "vm",
                fmt::format("'{}' has a [[vm]] already; put its keys into one",
                            vm.name.empty() ? vm.uuid : vm.name));
      }
    }
    if (!vm.user.empty() && vm.uid) {
      problem(table, "vm", "names its owner twice; write user = \"...\" or uid = N, not both");
    }
    config.vms.push_back(std::move(vm));
  }

  template <typename Target, std::size_t N>
  void read_key(const std::array<Key<Target>, N>& keys, const std::string& path,
                const toml::node& node, Target& target) {
    for (const Key<Target>& key : keys) {
      if (key.info.path != path) continue;
      lines_.insert_or_assign(path, node.source().begin.line);
      if (!key.set(target, node)) {
        problem(
            node, path,
            fmt::format("{} is not allowed; allowed: {}; correct it, or remove the line for the "
                        "default",
                        shown(node), key.info.allowed));
      }
      return;
    }
    unknown(path, node);
  }

  void unknown(const std::string& path, const toml::node& node) {
    if (path.ends_with(".grace_seconds")) {  // of the host or of a VM
      problem(node, path,
              "is no key any more; remove the line: no grace period is needed, since the kernel "
              "tells which pages a device holds");
      return;
    }
    std::vector<std::string> known;
    for (const KeyInfo& key : config_keys()) known.emplace_back(key.path);
    const std::string meant = nearest(path, known);
    if (meant.empty()) {
      problem(node, path, "unknown key; remove it (ramfold.toml(5) lists all keys)");
    } else {
      problem(node, path, fmt::format("unknown key; did you mean {}?", meant));
    }
  }

  void check_together(const toml::table& root, const Config& config) {
    if (const auto found = contradiction(config)) {
      const toml::node* node = root.at_path(found->key).node();
      problem(node == nullptr ? root : *node, found->key, found->text + "; " + found->remedy);
    }
  }

  void problem(const toml::node& node, std::string_view path, std::string_view text) {
    problems_.push_back(
        fmt::format("{}:{}: {}: {}", source_, node.source().begin.line, path, text));
  }

  std::string_view source_;
  std::vector<std::string> problems_;
  std::map<std::string, unsigned, std::less<>> lines_;
};

// Reads keys before the first section, each from a line that is valid TOML by itself.
void read_places(std::string_view text, Config& config) {
  constexpr std::array kPlaces{"runtime_dir"sv, "state_dir"sv, "control_group"sv, "agent_group"sv,
                               "log_level"sv};
  while (!text.empty()) {
    const std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(text.size(), line.size() + 1));
    const std::size_t first = line.find_first_not_of(" \t");
    if (first == std::string_view::npos) continue;
    if (line[first] == '[') return;
    const auto names = [&](std::string_view place) {
      return line.substr(first).starts_with(place);
    };
    if (std::ranges::none_of(kPlaces, names)) continue;
    try {
      const toml::table table = toml::parse(line);
      for (const Key<Config>& key : kKeys) {
        if (std::ranges::count(kPlaces, key.info.path) == 0) continue;
        if (const toml::node* node = table.get(key.info.path)) (void)key.set(config, *node);
      }
    } catch (const toml::parse_error&) {
      continue;  // a line that is no valid TOML has no key for us
    }
  }
}

template <typename Number>
std::optional<Number> number_of(std::string_view text) {
  Number number{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  const bool whole = error == std::errc{} && end == text.data() + text.size();
  return whole ? std::optional(number) : std::nullopt;
}

// `text` may stand for a flag or a number, and then for a string.
template <typename Target>
bool set_from_text(const Key<Target>& key, Target& to, std::string_view text) {
  if (text == "true" || text == "false") return key.set(to, toml::value<bool>(text == "true"));
  const auto whole = number_of<std::int64_t>(text);
  if (whole && key.set(to, toml::value<std::int64_t>(*whole))) return true;
  const auto number = number_of<double>(text);
  if (number && key.set(to, toml::value<double>(*number))) return true;
  return key.set(to, toml::value<std::string>(std::string(text)));
}

template <typename Target, std::size_t N>
std::optional<KeyProblem> set_named(const std::array<Key<Target>, N>& keys, Target& target,
                                    std::string_view prefix, std::string_view name,
                                    std::string_view text) {
  const std::string path = fmt::format("{}{}", prefix, name);
  std::vector<std::string> known;
  for (const Key<Target>& key : keys) {
    known.emplace_back(key.info.path.substr(prefix.size()));
    if (key.info.path != path) continue;
    if (set_from_text(key, target, text)) return std::nullopt;
    return KeyProblem{known.back(), fmt::format("{} is not allowed", text),
                      fmt::format("allowed: {}", key.info.allowed)};
  }
  const std::string meant = nearest(std::string(name), known);
  return KeyProblem{std::string(name), "unknown key",
                    meant.empty() ? "`ramfold policy get` lists the keys"
                                  : fmt::format("did you mean {}?", meant)};
}

std::string joined(const std::vector<std::string>& lines) {
  std::string text;
  for (const std::string& line : lines) text += (text.empty() ? "" : "\n") + line;
  return text;
}

}  // namespace

std::span<const KeyInfo> config_keys() {
  static const auto all = [] {
    std::vector<KeyInfo> keys;
    keys.reserve(std::size(kKeys) + std::size(kVmKeys));
    for (const auto& key : kKeys) keys.push_back(key.info);
    for (const auto& key : kVmKeys) keys.push_back(key.info);
    return keys;
  }();
  return all;
}

std::optional<KeyProblem> contradiction(const Config& config) {
  if (config.scan.cpu <= config.scan.threads) return std::nullopt;
  return KeyProblem{
      "scan.cpu",
      fmt::format("{} cores need as many threads; allowed: no more than scan.threads ({})",
                  config.scan.cpu, config.scan.threads),
      "lower scan.cpu or raise scan.threads"};
}

std::optional<KeyProblem> set_key(Config& config, std::string_view path, std::string_view text) {
  return set_named(kKeys, config, "", path, text);
}

std::optional<KeyProblem> set_key(VmOverride& vm, std::string_view name, std::string_view text) {
  return set_named(kVmKeys, vm, "vm.", name, text);
}

unsigned FoldConfig::backoff_passes_max() const noexcept {
  if (!backoff) return 0;
  constexpr double kMost = 1e6;
  return static_cast<unsigned>(std::min(std::ceil(backoff_seconds_max / pass_seconds), kMost));
}

ConfigReading read_config(std::string_view text, std::string_view source) {
  ConfigReading reading;
  if (text.size() > kConfigBytesMax) {
    reading.problems.push_back(
        fmt::format("{}: longer than {} bytes; is it the right file?", source, kConfigBytesMax));
    return reading;
  }
  try {
    Reader reader(source);
    reader.read(toml::parse(text, source), reading.config);
    reading.problems = reader.take_problems();
    reading.lines = reader.take_lines();
  } catch (const toml::parse_error& error) {
    reading.problems.push_back(fmt::format("{}:{}: not valid TOML: {}", source,
                                           error.source().begin.line, error.description()));
    read_places(text, reading.config);
  }
  return reading;
}

Result<Config> parse_config(std::string_view text, std::string_view source) {
  ConfigReading reading = read_config(text, source);
  if (!reading.problems.empty()) return fail(joined(reading.problems));
  return std::move(reading.config);
}

}  // namespace ramfold::policy
