// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/judge/others_watch.hpp"

#include <algorithm>

#include "base/clock.hpp"
#include "daemon/log.hpp"
#include "daemon/threads/apart.hpp"

namespace ramfold::daemon {
namespace {

constexpr std::uint64_t kEveryNs = 5'000'000'000;  // seldom: a look walks over all processes

}  // namespace

std::shared_ptr<const guest::OtherUses> OthersWatch::known() const {
  const MutexLock lock(mutex_);
  return uses_ && monotonic_ns() - began_ns_ < kLastNs ? uses_ : nullptr;
}

// The process at which the look stands holds it up.
void OthersWatch::give_up_stranger() {
  const pid_t pid = looking_->pid.load();
  const auto status = procfs_.status(pid);
  const uid_t uid = status ? status->uid : static_cast<uid_t>(-1);
  const uid_t account = ids_.account_of(uid);
  if (std::ranges::count(strangers_, account, &Stranger::account) == 0) {
    log::warn("pid {} (user {}) does not let itself be looked at: VMs of that user stay unfolded",
              pid, uid);
  }
  strangers_.push_back({pid, account, std::move(looking_)});
  looking_ = nullptr;
}

std::shared_ptr<guest::LookAt> OthersWatch::next_look() {
  auto look = std::make_shared<guest::LookAt>();
  for (const Stranger& one : strangers_) {
    look->leave_out.push_back(one.pid);
    const auto of_user = std::ranges::count(strangers_, one.account, &Stranger::account);
    if (static_cast<std::size_t>(of_user) < kStrangersOfUserMax) continue;
    const std::vector<sys::IdRange> ids = ids_.ids_of(one.account);
    look->leave_out_users.insert(look->leave_out_users.end(), ids.begin(), ids.end());
  }
  look->since_ns.store(monotonic_ns());
  return look;
}

void OthersWatch::tend(const std::vector<VmHandle>& vms, std::uint64_t patience_ns,
                       const LookCpu& cpu) {
  const std::uint64_t now = monotonic_ns();
  std::erase_if(strangers_, [](const Stranger& one) { return one.look->ended.load(); });
  const bool under_way = looking_ && !looking_->ended;
  if (under_way && now - looking_->since_ns < kPatienceNs) return;
  if (under_way) {
    give_up_stranger();
  } else {
    const MutexLock lock(mutex_);
    if (uses_ && now - began_ns_ < kEveryNs) return;
  }
  if (strangers_.size() >= kStrangersMax) return;
  std::vector<guest::ProcFacts::OwnedFile> files;
  for (const VmHandle& vm : vms) {
    for (const guest::RamBlock& block : vm->ram) files.push_back({block.file, vm->vm->pid()});
  }
  looking_ = next_look();
  const Ended ended =
      run_apart_for(patience_ns, [this, now, cpu, look = looking_, files = std::move(files)] {
        const std::uint64_t began = thread_cpu_ns();
        auto found = std::make_shared<const guest::OtherUses>(
            facts_.other_uses(files, custody_, look.get()));
        cpu->fetch_add(thread_cpu_ns() - began);
        {
          const MutexLock lock(mutex_);
          if (now > began_ns_) {
            uses_ = std::move(found);
            began_ns_ = now;
          }
        }
        look->ended.store(true);
      });
  if (ended == Ended::never_ran) looking_ = nullptr;
}

}  // namespace ramfold::daemon
