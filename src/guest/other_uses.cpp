// SPDX-License-Identifier: GPL-2.0-or-later
// The search for other users of RAM files: one pass over all processes for all VMs.
#include <algorithm>

#include "guest/facts.hpp"

namespace ramfold::guest {
namespace {

// All processes together: at 0.2 us a line a pass ends within some seconds, whatever they do.
constexpr std::size_t kPassLinesMax = 16'000'000;
constexpr pid_t kInit = 1;

class Pass {
 public:
  Pass(const sys::Procfs& procfs, std::span<const ProcFacts::OwnedFile> files) noexcept
      : procfs_(procfs), files_(files) {}

  void look_at(pid_t pid) {
    ++found_.processes;
    // Some hosts shield init even from root; it was there before every RAM file and is nobody's helper.
    if (pid == kInit && procfs_.mappings(pid, [](const auto&) { return false; }) == sys::Seen::denied) {
      return;
    }
    bool whole = lines_ < kPassLinesMax;
    if (whole) {
      whole = is_whole(procfs_.mappings(pid, [&](const sys::MapEntry& entry) {
        note(pid, {entry.device, entry.inode}, OtherUse::How::maps);
        return ++lines_ < kPassLinesMax;
      }));
    }
    if (whole) {
      whole = is_whole(procfs_.descriptors(pid, [&](const sys::FdEntry& entry) {
        // Only a memory file has such a link, or a file of that name, which the inode tells apart.
        if (entry.link.starts_with("/memfd:")) {
          if (const auto stat = procfs_.fd_stat(pid, entry.number)) {
            note(pid, {stat->device, stat->inode}, OtherUse::How::holds_descriptor);
          }
        }
        return ++lines_ < kPassLinesMax;
      }));
    }
    if (whole && lines_ < kPassLinesMax) return;
    const auto status = procfs_.status(pid);
    if (!status) return;  // gone
    auto& uids = found_.unchecked_uids;
    if (std::ranges::find(uids, status->uid) == uids.end()) uids.push_back(status->uid);
  }

  OtherUses take() { return std::move(found_); }

 private:
  static bool is_whole(sys::Seen seen) noexcept {
    return seen == sys::Seen::all || seen == sys::Seen::gone;
  }

  void note(pid_t pid, RamFileId file, OtherUse::How how) {
    const auto owned = std::ranges::find(files_, file, &ProcFacts::OwnedFile::file);
    if (owned == files_.end() || owned->owner == pid) return;
    // systemd's descriptor store holds all that the keeper holds. A mapping would be another
    // matter.
    if (pid == kInit && how == OtherUse::How::holds_descriptor) return;
    for (const OtherUse& use : found_.uses) {
      if (use.pid == pid && use.file == file) return;  // its mapping is found before its descriptor
    }
    if (found_.uses.size() >= kUsesMax) return;
    found_.uses.push_back({file, pid, procfs_.command(pid).value_or("?"), how});
  }

  static constexpr std::size_t kUsesMax = 4096;
  const sys::Procfs& procfs_;
  std::span<const ProcFacts::OwnedFile> files_;
  OtherUses found_;
  std::size_t lines_ = 0;
};

}  // namespace

OtherUses ProcFacts::other_uses(std::span<const OwnedFile> files,
                                std::span<const pid_t> ours) const {
  Pass pass(procfs_, files);
  procfs_.processes([&](pid_t pid) {
    if (std::ranges::find(ours, pid) == ours.end()) pass.look_at(pid);
    return true;
  });
  return pass.take();
}

}  // namespace ramfold::guest
