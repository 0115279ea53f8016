// SPDX-License-Identifier: GPL-2.0-or-later
// What the operator has decided, and what holds until it is taken back: `off`, `pause`, `pause VM`,
// `detach VM`. Kept in the file `decisions` of the state directory, so that it outlasts the daemon,
// an upgrade and a reboot.
//
// Safe way out: a decision that stops something holds at once, also where it cannot be written (the
// caller is told). One that lets folding go on again holds only once it is written. A file that is
// there and cannot be read stops folding and attaching as a whole, until begin_anew().
//
// A VM is known again by its owner and its uuid, or by its name where it or the decision has no
// uuid. One with neither is known by its process, and forgotten with it.
//
// The file, version 1, is lines of text:
//   ramfold-decisions 1
//   off SINCE                     seconds since 1970
//   paused SINCE
//   vm paused|detached SINCE uid=N uuid=U name=X [process=PID,START,BOOT]
//   end SUM                       FNV-1a of all that is before, 16 hexadecimal digits
// Bytes of a name that are none of [A-Za-z0-9._-] are written as %XX.
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
  // Of a VM that has neither a name of its own nor a uuid.
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
};

// What the file says.
struct DecisionBook {
  struct OfVm {
    VmDecision what;
    std::int64_t since = 0;
    VmKey vm;
  };
  std::optional<std::int64_t> off;  // since
  std::optional<std::int64_t> paused;
  std::vector<OfVm> vms;
};
// More VMs than run on any host; then a decision about another is refused.
inline constexpr std::size_t kDecidedVmsMax = 4096;
std::string text_of(const DecisionBook& book);
// Error: torn, damaged, or written by another version.
Result<DecisionBook> read_decisions(std::string_view text);

class Decisions {
 public:
  // `boot`: the kernel's boot_id.
  Decisions(std::string directory, std::string boot)
      : directory_(std::move(directory)), boot_(std::move(boot)) {}
  static std::string boot_id();

  // Reads the file; none is no decision. Decisions about processes that cannot be there any more
  // are left out. Before any other call.
  void load();

  // The key of a VM as the daemon knows it.
  VmKey key_of(std::string_view name, std::string_view uuid, std::uint32_t uid, pid_t pid,
               std::uint64_t start_ticks) const;

  // Why the file cannot be read; then nothing is known of what was decided.
  std::optional<std::string> unreadable() const EXCLUDES(mutex_);
  // Why what is decided is not in the file.
  std::optional<std::string> unsaved() const EXCLUDES(mutex_);
  // Since when; nothing: it is not decided.
  std::optional<std::int64_t> since(HostDecision what) const;
  std::optional<std::int64_t> since(VmDecision what, const VmKey& vm) const;

  // On success it is on the disk. On an Error it holds as long as this process lives.
  Status decide(HostDecision what);
  Status decide(VmDecision what, const VmKey& vm);
  // On success it is off the disk. On an Error it holds on. False: it was not decided.
  Status take_back_host();
  Result<bool> take_back(VmDecision what, const VmKey& vm);
  // Of VMs that do not run, by the name or uuid that the operator gives: of every owner.
  Result<bool> take_back(VmDecision what, std::string_view name_or_uuid);

  // Writes what could not be written. REQUIRES: called now and then. True: it is written by now.
  bool write_again();
  // Puts a file that cannot be read aside (`decisions.unreadable`); nothing is decided any more.
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
