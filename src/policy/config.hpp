// SPDX-License-Identifier: GPL-2.0-or-later
// The operator's configuration: /etc/ramfold/ramfold.toml, docs/ramfold.toml is the commented
// example, ramfold.toml(5) the reference. Plain data with safe defaults; an empty file is a valid
// configuration. A key that is unknown, misplaced, of a wrong type or out of range is an error that
// names the file, line, key, what is allowed and what to do. Nothing else is read here.
// Threads: values. The daemon reads it once at start.
//
// A daemon that restarts while VMs are folded must serve their faults even when the file is broken:
// what it goes by then is decided in daemon/custody/configuration.hpp.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.hpp"
#include "base/types.hpp"

namespace ramfold::policy {

inline constexpr std::string_view kConfigPathDefault = "/etc/ramfold/ramfold.toml";
// Longer files are refused: nobody writes one by hand.
inline constexpr std::size_t kConfigBytesMax = 1 << 20;
inline constexpr std::size_t kVmOverridesMax = 4096;

// Bytes, or a share of the host's RAM: "4 GiB", 4294967296 or "20%".
class MemoryAmount {
 public:
  static constexpr MemoryAmount of_bytes(ByteCount bytes) noexcept {
    return MemoryAmount{bytes, 0, false};
  }
  static constexpr MemoryAmount of_percent(double percent) noexcept {
    return MemoryAmount{ByteCount{0}, percent, true};
  }
  constexpr ByteCount resolve(ByteCount host_ram) const noexcept {
    if (!relative_) return bytes_;
    return ByteCount{
        static_cast<std::uint64_t>(static_cast<double>(host_ram.value) * percent_ / 100.0)};
  }
  constexpr bool relative() const noexcept { return relative_; }
  constexpr double percent() const noexcept { return percent_; }
  friend constexpr bool operator==(const MemoryAmount&, const MemoryAmount&) noexcept = default;

 private:
  constexpr MemoryAmount(ByteCount bytes, double percent, bool relative) noexcept
      : bytes_(bytes), percent_(percent), relative_(relative) {}
  ByteCount bytes_;
  double percent_;
  bool relative_;
};

enum class LogLevel : std::uint8_t { error, warning, info, debug };
enum class FoldWhen : std::uint8_t {
  pressure,  // only as available memory runs towards keep_available
  eager,     // whenever a page is cold
};
enum class GroupDefault : std::uint8_t {
  owner,  // QEMU's uid; VMs that libvirt starts under one uid get a group each
  vm,     // every VM alone: nothing is shared between VMs
};

struct FoldConfig {
  FoldWhen when = FoldWhen::pressure;
  MemoryAmount keep_available = MemoryAmount::of_percent(20);
  unsigned passes = 2;       // a page is cold when its bytes did not change over this many passes
  double pass_seconds = 30;  // a pass over a VM's resident pages takes no less than this
  bool backoff = true;       // a page that comes back soon must stay unchanged for longer
  double backoff_seconds_max = 7200;  // but for no longer than this
  bool zero = true;                   // mechanisms
  bool share = true;
  bool lz4 = true;
  // The same in passes; never fewer than a page that never came back needs.
  unsigned backoff_passes_max() const noexcept;
  friend bool operator==(const FoldConfig&, const FoldConfig&) = default;
};

enum class ReformPreset : std::uint8_t { off, balanced, dense };

// What becomes of stored pages as they stay cold.
struct ReformConfig {
  ReformPreset policy = ReformPreset::balanced;
  double cpu = 0.1;     // share of ONE core
  bool similar = true;  // patches and deltas against similar pages of the same group
  bool zstd = true;
  bool mix = true;  // of what zstd was tried for

  // What memory is worth: CPU seconds for a GiB that is kept free for an hour.
  double cpu_s_per_gib_hour() const noexcept {
    return policy == ReformPreset::dense ? 3'600'000 : 3'600;
  }
  friend bool operator==(const ReformConfig&, const ReformConfig&) = default;
};

struct ScanConfig {
  double cpu = 0.25;     // share of ONE core over all scan threads together; above 1 with several
  unsigned threads = 1;  // REQUIRES: cpu <= threads
  friend bool operator==(const ScanConfig&, const ScanConfig&) = default;
};

struct FaultConfig {
  unsigned threads_per_vm = 1;
  friend bool operator==(const FaultConfig&, const FaultConfig&) = default;
};

struct HostConfig {
  // Memory that folding never counts on: what would be needed if everything came back must fit into
  // available - reserve + unbacked_max.
  MemoryAmount reserve = MemoryAmount::of_percent(5);
  MemoryAmount unbacked_max = MemoryAmount::of_bytes(ByteCount{0});
  MemoryAmount arena_max = MemoryAmount::of_percent(50);
  double vm_ram_factor_max = 4;   // RAM that a VM may declare, in the host's
  double vm_kept_factor_max = 1;  // memory that a VM may make ramfold keep, in the VM's RAM
  friend bool operator==(const HostConfig&, const HostConfig&) = default;
};

struct GateConfig {
  double grace_seconds = 0;  // 0: off. Above 0 only with DataLossRisk::accepted
  friend bool operator==(const GateConfig&, const GateConfig&) = default;
};

// [[vm]]: what differs for one VM. It names the VM by `name` or `uuid`, and its owner by `user` or
// `uid`; absent fields: as for the rest. Who may have what is decided in policy/targets.hpp.
struct VmOverride {
  std::string name;  // QEMU's -name (guest=); empty: not compared
  std::string uuid;  // lower case; empty: not compared
  std::string user;  // the name of the owner's account; empty: not compared
  std::optional<std::uint32_t> uid;
  unsigned line = 0;  // of the file, for messages
  std::optional<std::string> group;
  std::optional<bool> fold;  // false: observe only
  std::optional<bool> zero;
  std::optional<bool> share;
  std::optional<bool> lz4;
  std::optional<double> grace_seconds;
  bool names_owner() const noexcept { return uid.has_value() || !user.empty(); }
  friend bool operator==(const VmOverride&, const VmOverride&) = default;
};

struct Config {
  std::string runtime_dir = "/run/ramfold";
  std::string state_dir = "/var/lib/ramfold";  // what outlasts a reboot
  std::string control_group = "ramfold";       // may use control.sock
  // May use agent.sock, and is given /dev/userfaultfd there. On Debian libvirt-qemu is in kvm.
  std::string agent_group = "kvm";
  LogLevel log_level = LogLevel::info;
  FoldConfig fold;
  ReformConfig reform;
  ScanConfig scan;
  FaultConfig fault;
  HostConfig host;
  GroupDefault group_default = GroupDefault::owner;
  GateConfig gate;
  std::vector<VmOverride> vms;

  std::string agent_socket() const { return runtime_dir + "/agent.sock"; }
  std::string keeper_socket() const { return runtime_dir + "/keeper.sock"; }
  std::string control_socket() const { return runtime_dir + "/control.sock"; }

  friend bool operator==(const Config&, const Config&) = default;
};

// `ramfoldd --accept-data-loss-risk`: whoever starts the daemon takes the risk of the grace mode, a
// line in a file alone does not.
enum class DataLossRisk : bool { refused, accepted };

struct ConfigReading {
  Config config;                      // what is valid of the text; all else has its default
  std::vector<std::string> problems;  // empty: all of it is valid
};
// `source` names the text in problems, of which each is one line:
// "FILE:LINE: KEY: what is wrong; allowed: ...; what to do". Of a text that is not TOML the keys of
// where things are (runtime_dir, state_dir, control_group, log_level) are read, each whose line can
// be.
ConfigReading read_config(std::string_view text, std::string_view source,
                          DataLossRisk risk = DataLossRisk::refused);
// The same, or all problems in one Error.
Result<Config> parse_config(std::string_view text, std::string_view source,
                            DataLossRisk risk = DataLossRisk::refused);

}  // namespace ramfold::policy
