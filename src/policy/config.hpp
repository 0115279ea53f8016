// SPDX-License-Identifier: GPL-2.0-or-later
// The operator's configuration, /etc/ramfold/ramfold.toml. docs/ramfold.toml is the commented
// example, ramfold.toml(5) the reference. Plain data with safe defaults; an empty file is a valid
// configuration. A key that is unknown, misplaced, of a wrong type or out of range is an error. The
// error names the file, the line, the key, the allowed values and the remedy.
// Threads: values.
//
// A daemon that restarts while VMs are folded must serve their faults even when the file is broken.
// daemon/custody/configuration.hpp decides which configuration it uses then.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
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
  pressure,  // only while the host has no more available memory than keep_available
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
  double pass_seconds = 30;  // a pass over a VM's resident pages takes this long at least
  bool backoff = true;       // a page that comes back soon must stay unchanged for longer,
  double backoff_seconds_max = 7200;  // up to this time
  bool zero = true;                   // mechanisms
  bool share = true;
  bool lz4 = true;
  bool map = false;
  double stall_budget = 0.01;  // share of wall time that a vCPU may wait for ramfold
  // backoff_seconds_max in passes; 0 without back-off.
  unsigned backoff_passes_max() const noexcept;
  friend bool operator==(const FoldConfig&, const FoldConfig&) = default;
};

enum class ReformPreset : std::uint8_t { off, balanced, dense };

// Which forms stored pages are given while they stay cold (store/reform).
struct ReformConfig {
  ReformPreset policy = ReformPreset::balanced;
  double cpu = 0.1;     // share of ONE core
  bool similar = true;  // patches and deltas against similar pages of the same group
  bool zstd = true;
  bool mix = true;  // mixed contexts, for pages that zstd was tried for

  // The price of memory: the CPU seconds that one GiB kept free for an hour may cost.
  double cpu_s_per_gib_hour() const noexcept {
    return policy == ReformPreset::dense ? 3'600'000 : 3'600;
  }
  friend bool operator==(const ReformConfig&, const ReformConfig&) = default;
};

// How it is known which pages a guest references.
enum class Referenced : std::uint8_t {
  off,        // it is not known: pages that do not change are cold
  automatic,  // page_idle where the kernel has it, else forget
  forget,     // the agent forgets pages; those that are touched come back into QEMU's page table
  page_idle,  // the kernel's idle page tracking
  rwp         // userfaultfd's read-write protection; no kernel offers it beside guards
};

struct ScanConfig {
  double cpu = 0.25;     // share of ONE core over all scan threads together; above 1 with several
  unsigned threads = 1;  // REQUIRES: cpu <= threads
  Referenced referenced = Referenced::off;
  friend bool operator==(const ScanConfig&, const ScanConfig&) = default;
};

struct FaultConfig {
  unsigned threads_per_vm = 1;
  friend bool operator==(const FaultConfig&, const FaultConfig&) = default;
};

struct HostConfig {
  // Folding goes on only while (policy/pressure.hpp)
  //
  //   needed if all came back <= available + free disk swap - reserve + unbacked_max
  MemoryAmount reserve = MemoryAmount::of_percent(5);
  MemoryAmount unbacked_max = MemoryAmount::of_bytes(ByteCount{0});
  MemoryAmount arena_max = MemoryAmount::of_percent(50);
  double vm_ram_factor_max = 4;   // a VM may declare this many times the host's RAM
  double vm_kept_factor_max = 1;  // a VM may make ramfold keep this many times the VM's RAM
  friend bool operator==(const HostConfig&, const HostConfig&) = default;
};

// [[vm]]: settings for one VM. It names the VM by `name` or `uuid`, and its owner by `user` or
// `uid`. A setting that is absent is that of all VMs. policy/targets.hpp decides which settings
// hold.
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
  std::optional<bool> map;
  std::optional<FoldWhen> when;
  std::optional<unsigned> passes;
  std::optional<double> stall_budget;
  std::optional<ByteCount> resident_floor;
  bool names_owner() const noexcept { return uid.has_value() || !user.empty(); }
  friend bool operator==(const VmOverride&, const VmOverride&) = default;
};

struct Config {
  std::string runtime_dir = "/run/ramfold";
  std::string state_dir = "/var/lib/ramfold";  // files that must outlast a reboot
  std::string control_group = "ramfold";       // its members may use control.sock
  // Its members may use agent.sock, which gives them /dev/userfaultfd. On Debian, libvirt-qemu is
  // in kvm.
  std::string agent_group = "kvm";
  LogLevel log_level = LogLevel::info;
  FoldConfig fold;
  ReformConfig reform;
  ScanConfig scan;
  FaultConfig fault;
  HostConfig host;
  GroupDefault group_default = GroupDefault::owner;
  std::vector<VmOverride> vms;

  std::string agent_socket() const { return runtime_dir + "/agent.sock"; }
  std::string keeper_socket() const { return runtime_dir + "/keeper.sock"; }
  std::string control_socket() const { return runtime_dir + "/control.sock"; }

  friend bool operator==(const Config&, const Config&) = default;
};

struct ConfigReading {
  Config config;                      // valid keys as in the text; all others have their defaults
  std::vector<std::string> problems;  // empty: the whole text is valid
  // The line of each key that the text has; of several [[vm]], of the last.
  std::map<std::string, unsigned, std::less<>> lines;
};
// `source` is the FILE in problems. A problem is one line: "FILE:LINE: KEY: error; allowed: ...;
// remedy". In a text that is not valid TOML, only the keys runtime_dir, state_dir, control_group
// and log_level are read, each from a line that is valid TOML by itself.
ConfigReading read_config(std::string_view text, std::string_view source);
// The same, or all problems in one Error.
Result<Config> parse_config(std::string_view text, std::string_view source);

}  // namespace ramfold::policy
