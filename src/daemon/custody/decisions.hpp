// SPDX-License-Identifier: GPL-2.0-or-later
// The operator's decisions `off`, `pause`, `pause VM`, `detach VM`, and values that were set by
// `ramfold policy set`. Each is in force until the operator takes it back. They are stored in the
// file `decisions` of the state directory, so they outlive the daemon, an upgrade and a reboot.
//
// The safe order: a decision that stops something is in force at once, even if it cannot be written
// (the caller gets the error). A decision that allows folding again is in force only after it is
// written. If the file exists and cannot be read, nothing is folded or attached until begin_anew().
//
// A decision finds its VM by owner and uuid; if the VM or the decision has no uuid, by owner and
// name. A VM with neither uuid nor name is found by its process; the decision ends with the
// process.
//
// The file, version 1, is lines of text:
//   ramfold-decisions 1
//   off SINCE                     seconds since 1970
//   paused SINCE
//   vm paused|detached SINCE uid=N uuid=U name=X [process=PID,START,BOOT]
//   set KEY=VALUE                 a key of the host
//   set-vm KEY=VALUE uid=N uuid=U name=X [process=PID,START,BOOT]
//   end SUM                       FNV-1a of all bytes before this line, 16 hexadecimal digits
// Bytes of a name or value outside [A-Za-z0-9._-] are written as %XX. What a key may be set to is
// not known here (live_policy.hpp).
// Threads: any. No other lock is taken under either of its own.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.hpp"
#include "base/thread_annotations.hpp"

namespace ramfold::daemon {

enum class HostDecision : std::uint8_t { off, paused };
enum class VmDecision : std::uint8_t { paused, detached };

struct VmKey {
  // Set for a VM that has neither a name of its own nor a uuid.
  struct Process {
    pid_t pid = 0;
    std::uint64_t start_ticks = 0;
    std::string boot;  // the kernel's boot_id
    friend bool operator==(const Process&, const Process&) = default;
  };
  std::string name;
  std::string uuid;  // empty: none
  std::uint32_t uid = 0;
  std::optional<Process> process;

  bool is(const VmKey& other) const;
  friend bool operator==(const VmKey&, const VmKey&) = default;
};

// The content of the file.
struct DecisionBook {
  struct OfVm {
    VmDecision what;
    std::int64_t since = 0;
    VmKey vm;
  };
  std::optional<std::int64_t> off;  // since
  std::optional<std::int64_t> paused;
  std::vector<OfVm> vms;
  // A value of the configuration that was set at run time.
  struct Set {
    std::string key;
    std::string value;
    std::optional<VmKey> vm;  // nullopt: of the host
  };
  std::vector<Set> set;
};
// More than any host runs. A decision about one more VM is refused (ENOSPC).
inline constexpr std::size_t kDecidedVmsMax = 4096;
inline constexpr std::size_t kSetValuesMax = 4096;
std::string text_of(const DecisionBook& book);
// Error: torn, damaged, or written by another version.
Result<DecisionBook> read_decisions(std::string_view text);

class Decisions {
 public:
  // `boot`: the kernel's boot_id.
  Decisions(std::string directory, std::string boot)
      : directory_(std::move(directory)), boot_(std::move(boot)) {}
  static std::string boot_id();

  // Reads the file. No file: no decisions. Leaves out decisions about processes of an earlier boot.
  // Call it before any other function.
  void load();

  // Makes the key of a VM.
  VmKey key_of(std::string_view name, std::string_view uuid, std::uint32_t uid, pid_t pid,
               std::uint64_t start_ticks) const;

  // Why the file cannot be read; the decisions are then unknown. nullopt: it was read.
  std::optional<std::string> unreadable() const EXCLUDES(mutex_);
  // Why the last decision is not in the file. nullopt: the file is up to date.
  std::optional<std::string> unsaved() const EXCLUDES(mutex_);
  // The time of the decision, in seconds since 1970; nullopt: not decided.
  std::optional<std::int64_t> since(HostDecision what) const;
  std::optional<std::int64_t> since(VmDecision what, const VmKey& vm) const;

  std::vector<DecisionBook::Set> set_values() const;

  // On success the decision is on the disk. On an Error of writing it is in force while this
  // process lives.
  Status decide(HostDecision what);
  Status decide(VmDecision what, const VmKey& vm);
  // On success the decision is gone from the disk too. On an Error it stays in force. False: there
  // was no such decision.
  Status take_back_host();
  Result<bool> take_back(VmDecision what, const VmKey& vm);
  // For VMs that do not run: by name or uuid, for every owner.
  Result<bool> take_back(VmDecision what, std::string_view name_or_uuid);

  // Replaces all values. On an Error those before stay in force.
  Status replace_set_values(std::vector<DecisionBook::Set> values);

  // Tries again to write decisions that are not in the file. True: they are written now. REQUIRES:
  // called regularly.
  bool write_again();
  // Renames a file that cannot be read to `decisions.unreadable`. No decision is in force then.
  Status begin_anew();

 private:
  Status write(const DecisionBook& book) REQUIRES(writing_);
  template <typename Change>
  Status change_first(Change change) EXCLUDES(writing_);
  template <typename Change>
  Result<bool> change_when_written(Change change) EXCLUDES(writing_);
  std::string path() const { return directory_ + "/decisions"; }

  const std::string directory_;
  const std::string boot_;
  Mutex writing_ ACQUIRED_BEFORE(mutex_){"Decisions::writing"};  // held while a file is written
  mutable Mutex mutex_{"Decisions"};
  DecisionBook book_ GUARDED_BY(mutex_);
  std::optional<std::string> unreadable_ GUARDED_BY(mutex_);
  std::optional<std::string> unsaved_ GUARDED_BY(mutex_);
};

}  // namespace ramfold::daemon
