// SPDX-License-Identifier: GPL-2.0-or-later
// Which pages that map the pool have been written, and so should be put back.
// Threads: any.
#pragma once

#include "guest/quiet_proof.hpp"
#include "guest/vm.hpp"

namespace ramfold::fold {

// Of `mapped`, the pages of the run that have a private copy, in memory or in swap (D11). REQUIRES:
// they are in one block; the addresses of `mapped` map the pool. A page that is guarded meanwhile
// and not in the page table counts as written: its marker looks like swap, and putting back a page
// that was not written does no harm. For any other range this says nothing. EINVAL: more than
// guest::kProofPagesMax.
Result<guest::PageMask> written_pages(const guest::Vm& vm, PageRun run, guest::PageMask mapped);

}  // namespace ramfold::fold
