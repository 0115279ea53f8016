// SPDX-License-Identifier: GPL-2.0-or-later
// Sight: which pages of a chunk are there. PAGEMAP_SCAN shows those in QEMU's page table. Others
// may be in the RAM file without an entry there: pages that were forgotten, or that the host's
// reclaim took from the page table. It looks for these only where the page's word or history says
// that one may be there, and asks the kernel about the RAM file (guest/quiet_proof.hpp). So a scan
// touches no hole, and brings back no page that the host has swapped out.
// Threads: a Sight per thread.
#pragma once

#include <array>
#include <span>

#include "base/result.hpp"
#include "guest/quiet_proof.hpp"
#include "guest/vm.hpp"
#include "scan/history.hpp"

namespace ramfold::scan {

class Sight {
 public:
  // `proof` outlives this.
  explicit Sight(guest::QuietProof& proof) noexcept : proof_(proof) {}
  // The pages of the chunk that are there, in order; valid until the next call. `history`: null
  // where no page is ever forgotten. Errors: ESRCH the VM is gone.
  Result<std::span<const SeenPage>> look(guest::Vm& vm, std::size_t chunk, const History* history);

 private:
  // Adds to seen_ those of the pages [from, to) that may be there without an entry, and are.
  void look_behind(guest::Vm& vm, PageIndex from, PageIndex to, bool guarded,
                   const History* history) noexcept;

  guest::QuietProof& proof_;
  std::array<sys::PageRegion, 256> regions_;
  std::array<SeenPage, guest::kChunkPages.value> seen_;
  std::size_t count_ = 0;
};

}  // namespace ramfold::scan
