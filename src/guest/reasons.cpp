// SPDX-License-Identifier: GPL-2.0-or-later
// The table of reasons: the name of each, its consequence, and the remedy for the operator.
#include "guest/reasons.hpp"

#include <algorithm>
#include <array>

#include "base/printable.hpp"
#include "guest/facts.hpp"

namespace ramfold::guest {
namespace {

enum class Follows : std::uint8_t { stop_folding, unfold };

struct Row {
  ReasonCode code;
  Follows follows;
  std::string_view name;
  std::string_view remedy;
};

// In the order of ReasonCode.
constexpr std::array<Row, kReasonCodes> kRows{{
    {ReasonCode::kernel_too_old, Follows::stop_folding, "kernel_too_old",
     "boot the host with Linux 6.7 or newer"},
    {ReasonCode::self_test_failed, Follows::stop_folding, "self_test_failed",
     "run `ramfold doctor`; report the kernel's version and the fact that failed"},
    {ReasonCode::no_pin_test, Follows::stop_folding, "no_pin_test",
     "let ramfoldd load its BPF program; `ramfold doctor` says what to change"},
    {ReasonCode::agent_silent, Follows::stop_folding, "agent_silent",
     "start the VM with `ramfold exec -- qemu-system-x86_64 ...` (libvirt: LD_PRELOAD in "
     "<qemu:commandline>), and look for the agent's line in QEMU's stderr"},
    {ReasonCode::agent_incomplete, Follows::stop_folding, "agent_incomplete",
     "restart the VM so that it loads the agent of this version"},
    {ReasonCode::unreadable, Follows::stop_folding, "unreadable",
     "give the daemon CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH (`systemctl edit ramfold`, "
     "CapabilityBoundingSet=), and a /proc without hidepid; where large folios are asked about, "
     "restart the VM with the agent of this version, or give CAP_SYS_ADMIN too; close "
     "descriptors or mappings when there are too many"},
    {ReasonCode::ram_layout, Follows::unfold, "ram_layout",
     "restart the VM with RAM from one memory-backend-memfd,share=on that nothing else maps"},
    {ReasonCode::hugetlb, Follows::unfold, "hugetlb",
     "use memory-backend-memfd without hugetlb (libvirt: no <hugepages/>)"},
    {ReasonCode::large_folios, Follows::stop_folding, "large_folios",
     "echo never to /sys/kernel/mm/transparent_hugepage/shmem_enabled and to every "
     "hugepages-*/shmem_enabled there; a VM that holds large folios must then be restarted"},
    {ReasonCode::locked_memory, Follows::unfold, "locked_memory",
     "start QEMU without -overcommit mem-lock=on (libvirt: no <locked/>)"},
    {ReasonCode::confidential_guest, Follows::unfold, "confidential_guest",
     "the memory of SEV and TDX guests cannot be folded; nothing to do"},
    {ReasonCode::incoming_migration, Follows::stop_folding, "incoming_migration",
     "after the migration has ended, run `ramfold attach VM --incoming-finished`"},
    {ReasonCode::other_userfaultfd, Follows::unfold, "other_userfaultfd",
     "let postcopy or the background snapshot end: then it is folded again by itself"},
    {ReasonCode::other_mapper, Follows::unfold, "other_mapper",
     "stop that process, or give the device an in-process back-end instead of vhost-user"},
    {ReasonCode::ram_fd_elsewhere, Follows::unfold, "ram_fd_elsewhere",
     "stop that process, or give the device an in-process back-end instead of vhost-user"},
    {ReasonCode::other_consumer, Follows::unfold, "other_consumer",
     "detach the device that is passed through (vfio, vdpa, GPU, RDMA)"},
    {ReasonCode::exec_in_process, Follows::unfold, "exec_in_process", "restart the VM"},
    {ReasonCode::unknown_descriptor, Follows::stop_folding, "unknown_descriptor",
     "remove the device that uses it, or report it so that it can be judged"},
    {ReasonCode::lost_pages, Follows::stop_folding, "lost_pages",
     "restart the VM: as long as it runs, an access to these pages gets a memory error; and look "
     "for memory errors of the host"},
    {ReasonCode::inconsistent, Follows::stop_folding, "inconsistent",
     "restart the VM to have it folded again; report it with the daemon's log, and look for memory "
     "errors of the host"},
}};

constexpr bool rows_are_in_order() {
  for (std::size_t i = 0; i < kRows.size(); ++i) {
    if (static_cast<std::size_t>(kRows[i].code) != i) return false;
  }
  return true;
}
static_assert(rows_are_in_order());

constexpr const Row& row_of(ReasonCode code) noexcept {
  return kRows[static_cast<std::size_t>(code)];
}

}  // namespace

std::string_view name(ReasonCode code) noexcept { return row_of(code).name; }
Reason reason_of(ReasonCode code, std::string text) {
  return {code, std::move(text), std::string(row_of(code).remedy)};
}
bool demands_unfold(ReasonCode code) noexcept { return row_of(code).follows == Follows::unfold; }

bool Facts::must_unfold() const noexcept {
  for (const Reason& reason : reasons) {
    if (demands_unfold(reason.code)) return true;
  }
  return false;
}

bool Facts::must_stay_unfolded() const noexcept {
  return std::ranges::any_of(reasons, [](const Reason& reason) {
    return demands_unfold(reason.code) && reason.code != ReasonCode::other_userfaultfd;
  });
}

void ReasonList::add(ReasonCode code, std::string_view text) {
  add(reason_of(code, std::string(text)));
}

void ReasonList::add(Reason reason) {
  if (reasons_.size() >= kReasonsMax) return;
  for (const Reason& known : reasons_) {
    if (known.code == reason.code && known.text == reason.text) return;
  }
  reasons_.push_back(std::move(reason));
}

std::string printable(std::string_view name) {
  constexpr std::size_t kShown = 160;
  std::string shown = ramfold::printable(cut_text(name, kShown));
  if (name.size() > kShown) shown += "...";
  return shown;
}

}  // namespace ramfold::guest
