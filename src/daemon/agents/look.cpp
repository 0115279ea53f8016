// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/agents/look.hpp"

#include <sys/eventfd.h>

#include <algorithm>

#include "daemon/threads/apart.hpp"
#include "sys/open_file.hpp"

namespace ramfold::daemon {
namespace {

constexpr unsigned kProofsMax = 3;

Status check(const Look& look, const sys::Procfs& procfs) {
  const auto checked = guest::check_offer(look.offer, look.pid, look.fds, procfs);
  if (!checked) return std::unexpected(checked.error());
  if (checked->start_ticks != look.start_ticks)
    return fail("the agent's process is another now", ESRCH);
  // QEMU's -runas changes the user. The VM must not join the trust group of its earlier user.
  if (checked->uid != look.uid)
    return fail("the agent's process has changed its user: connect again", EPROTO);
  const sys::Uffd uffd(look.fds[0]);
  if (Status ok = uffd.handshake(look.features); !ok) return ok;
  // If the ownership of this userfaultfd was proved before, skip the proof. The proof registers
  // some RAM for a moment; in that moment QEMU could not register it for a postcopy or a background
  // snapshot.
  if (look.former && look.former->uffd &&
      sys::same_open_file(look.former->uffd, look.fds.front())) {
    return {};
  }
  // Several tries: if a block consists of several mappings, the range of a try may contain a border
  // between two of them.
  Status proved;
  for (unsigned i = 0; i < kProofsMax; ++i) {
    proved = guest::prove_owner(uffd, look.pid, checked->blocks, procfs);
    if (proved) break;
  }
  return proved;
}

}  // namespace

Result<std::shared_ptr<LookDesk>> LookDesk::make() {
  sys::Fd wake(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!wake) return fail_errno("eventfd");
  return std::shared_ptr<LookDesk>(new LookDesk(std::move(wake)));
}

void LookDesk::poke() noexcept {
  const std::uint64_t one = 1;
  [[maybe_unused]] const auto n = ::write(wake_.get(), &one, sizeof one);
}

void LookDesk::drain() noexcept {
  std::uint64_t count = 0;
  [[maybe_unused]] const auto n = ::read(wake_.get(), &count, sizeof count);
}

bool LookDesk::has_room(const Look& look) const noexcept {
  const auto of_process = std::ranges::count(running_, look.pid, &Running::pid);
  const auto of_user = std::ranges::count(running_, look.account, &Running::account);
  return running_.size() < kAllMax && static_cast<std::size_t>(of_process) < kOfProcessMax &&
         static_cast<std::size_t>(of_user) < kOfUserMax;
}

void LookDesk::start(const std::shared_ptr<LookDesk>& desk, const sys::Procfs& procfs,
                     std::shared_ptr<Look> look) {
  const MutexLock lock(desk->mutex_);
  desk->waiting_.push_back(std::move(look));
  desk->start_waiting(desk, procfs);
}

void LookDesk::tend(const std::shared_ptr<LookDesk>& desk, const sys::Procfs& procfs) {
  const MutexLock lock(desk->mutex_);
  if (!desk->waiting_.empty()) desk->start_waiting(desk, procfs);
}

void LookDesk::start_waiting(const std::shared_ptr<LookDesk>& self, const sys::Procfs& procfs) {
  // A look that only the desk references was given up by its connection.
  for (std::size_t i = 0; i < waiting_.size();) {
    if (waiting_[i].use_count() != 1) {
      if (!has_room(*waiting_[i])) {
        ++i;
        continue;
      }
      const std::shared_ptr<Look> look = waiting_[i];
      const Look* const key = look.get();
      running_.push_back({key, look->pid, look->account});
      const bool runs = run_apart([self, look, key, &procfs] {
        look->identity = identify(procfs, look->pid);
        if (look->of_offer) look->status = check(*look, procfs);
        const MutexLock lock(self->mutex_);
        std::erase_if(self->running_, [key](const Running& one) { return one.look == key; });
        self->ended_.push_back(look);
        self->start_waiting(self, procfs);
        self->poke();
      });
      if (!runs) {
        running_.pop_back();
        return;  // tend() tries again
      }
    }
    waiting_.erase(waiting_.begin() + static_cast<std::ptrdiff_t>(i));
  }
}

std::vector<std::shared_ptr<Look>> LookDesk::take() {
  const MutexLock lock(mutex_);
  return std::exchange(ended_, {});
}

}  // namespace ramfold::daemon
