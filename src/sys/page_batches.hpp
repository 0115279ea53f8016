// SPDX-License-Identifier: GPL-2.0-or-later
// A CPU keeps pages that are new, or just used again, in batches (of about 31) before they go to
// the kernel's lists (mm/swap.c). A batch holds its pages, so they do not count as quiet. Folding
// loses nothing by it, because a later pass asks again. Tests that need quiet pages empty the
// batches.
// Threads: any; moves the calling thread from CPU to CPU and back.
#pragma once

namespace ramfold::sys {

// Empties the batches of each CPU that this thread may use. A CPU that cannot be reached is left
// out.
void drain_page_batches() noexcept;

}  // namespace ramfold::sys
