// SPDX-License-Identifier: GPL-2.0-or-later
// The search for other users of RAM files: one pass over all processes for all VMs.
#include <algorithm>
#include <array>

#include "base/clock.hpp"
#include "guest/facts.hpp"

namespace ramfold::guest {
namespace {

// Bound over all processes. A line takes 0.2 us, so a pass ends after some seconds, whatever the
// processes do.
constexpr std::size_t kPassLinesMax = 16'000'000;
constexpr pid_t kInit = 1;
// The waits before each further look at a child of QEMU, after the pass.
constexpr std::array<std::uint64_t, 3> kExecWaitsNs{20'000'000, 100'000'000, 400'000'000};

class Pass {
 public:
  Pass(const sys::Procfs& procfs, std::span<const ProcFacts::OwnedFile> files,
       const RamFileId& store) noexcept
      : procfs_(procfs), files_(files), store_(store) {}

  void look_at(pid_t pid) {
    ++found_.processes;
    // Some hosts protect init even from root. That is safe: init is older than every RAM file and
    // helps no VM.
    if (pid == kInit &&
        procfs_.mappings(pid, [](const auto&) { return false; }) == sys::Seen::denied) {
      return;
    }
    Look look = look_once(pid);
    if (!look.uses.empty()) {
      // Looks twice. A keeper that is being killed, or a child of the service manager before its
      // exec, may have closed the store's file before the RAM files in the middle of the first
      // look. The second look finds these closed too.
      if (Look again = look_once(pid); again.whole) look = std::move(again);
    }
    if (is_child_of_owner(pid, look) && children_.size() < kUsesMax) {
      children_.push_back(pid);
    } else {
      take_down(pid, std::move(look));
    }
  }

  // A child of QEMU shares QEMU's memory between vfork and exec, and its descriptors after a fork.
  // It is a user of RAM only if it keeps them.
  void look_at_children(LookAt* at) {
    for (std::size_t i = 0; i < kExecWaitsNs.size() && !children_.empty(); ++i) {
      sleep_ns(kExecWaitsNs[i]);
      const bool last = i + 1 == kExecWaitsNs.size();
      std::erase_if(children_, [&](pid_t pid) {
        begins_with(at, pid);
        Look look = look_once(pid);
        const bool keeps = is_child_of_owner(pid, look);
        if (keeps && !last) return false;
        take_down(pid, std::move(look));
        return true;
      });
    }
  }

  static void begins_with(LookAt* at, pid_t pid) {
    if (at == nullptr) return;
    at->since_ns.store(monotonic_ns());
    at->pid.store(pid);
  }

  // Reading /proc/PID/status does not take the mmap_lock.
  void leave_out(pid_t pid) {
    const auto status = procfs_.status(pid);
    if (!status) return;  // gone
    auto& uids = found_.unchecked_uids;
    if (std::ranges::find(uids, status->uid) == uids.end()) uids.push_back(status->uid);
  }

  OtherUses take() { return std::move(found_); }

 private:
  // The RAM files that one process uses.
  struct Look {
    std::vector<OtherUse> uses;
    bool whole = false;
  };

  void take_down(pid_t pid, Look look) {
    for (OtherUse& use : look.uses) {
      if (found_.uses.size() >= kUsesMax) break;
      use.command = procfs_.command(pid).value_or("?");
      found_.uses.push_back(std::move(use));
    }
    if (!look.whole) leave_out(pid);
  }

  // True: it uses RAM files of its parent only.
  bool is_child_of_owner(pid_t pid, const Look& look) const {
    if (look.uses.empty() || !look.whole) return false;
    const auto status = procfs_.status(pid);
    return status && std::ranges::all_of(look.uses, [&](const OtherUse& use) {
             const auto owned = std::ranges::find(files_, use.file, &ProcFacts::OwnedFile::file);
             return owned != files_.end() && owned->owner == status->parent;
           });
  }

  Look look_once(pid_t pid) {
    Look look;
    bool holds_store = false;
    look.whole = lines_ < kPassLinesMax;
    if (look.whole) {
      look.whole = is_whole(procfs_.mappings(pid, [&](const sys::MapEntry& entry) {
        note(look, pid, {entry.device, entry.inode}, OtherUse::How::maps);
        return ++lines_ < kPassLinesMax;
      }));
    }
    if (look.whole) {
      look.whole = is_whole(procfs_.descriptors(pid, [&](const sys::FdEntry& entry) {
        // Only a memfd has such a link, or a file with such a name; the inode shows which.
        if (entry.link.starts_with("/memfd:")) {
          if (const auto stat = procfs_.fd_stat(pid, entry.number)) {
            const RamFileId file{stat->device, stat->inode};
            holds_store = holds_store || file == store_;
            note(look, pid, file, OtherUse::How::holds_descriptor);
          }
        }
        return ++lines_ < kPassLinesMax;
      }));
    }
    look.whole = look.whole && lines_ < kPassLinesMax;
    // A process that holds the store's file is the keeper or the service manager. It may hold RAM
    // files, but may not map them.
    if (holds_store)
      std::erase_if(look.uses, [](const OtherUse& use) { return use.how != OtherUse::How::maps; });
    return look;
  }

  static bool is_whole(sys::Seen seen) noexcept {
    return seen == sys::Seen::all || seen == sys::Seen::gone;
  }

  void note(Look& look, pid_t pid, RamFileId file, OtherUse::How how) const {
    const auto owned = std::ranges::find(files_, file, &ProcFacts::OwnedFile::file);
    if (owned == files_.end() || owned->owner == pid) return;
    // The descriptor store of systemd holds all that the keeper holds. A mapping would not be
    // harmless.
    if (pid == kInit && how == OtherUse::How::holds_descriptor) return;
    // One use per file: mappings are looked at before descriptors.
    if (std::ranges::find(look.uses, file, &OtherUse::file) != look.uses.end()) return;
    if (look.uses.size() < kUsesMax) look.uses.push_back({file, pid, {}, how});
  }

  static constexpr std::size_t kUsesMax = 4096;
  const sys::Procfs& procfs_;
  std::span<const ProcFacts::OwnedFile> files_;
  const RamFileId store_;
  OtherUses found_;
  std::vector<pid_t> children_;  // children of QEMU that use RAM and may be about to exec
  std::size_t lines_ = 0;
};

}  // namespace

OtherUses ProcFacts::other_uses(std::span<const OwnedFile> files, const Custody& custody,
                                LookAt* at) const {
  Pass pass(procfs_, files, custody.store);
  const auto left_out = [&](pid_t pid) {
    if (std::ranges::find(at->leave_out, pid) != at->leave_out.end()) return true;
    if (at->leave_out_users.empty()) return false;
    const auto status = procfs_.status(pid);
    return status && std::ranges::any_of(at->leave_out_users, [&](const sys::IdRange& ids) {
             return ids.has(status->uid);
           });
  };
  procfs_.processes([&](pid_t pid) {
    if (pid == custody.daemon) return true;
    if (at != nullptr && left_out(pid)) {
      pass.leave_out(pid);
      return true;
    }
    Pass::begins_with(at, pid);
    pass.look_at(pid);
    return true;
  });
  pass.look_at_children(at);
  return pass.take();
}

}  // namespace ramfold::guest
