// SPDX-License-Identifier: GPL-2.0-or-later
#include "sys/page_batches.hpp"

#include <sched.h>
#include <sys/mman.h>

#include "sys/memory.hpp"

namespace ramfold::sys {

void drain_page_batches() noexcept {
  const auto any = Mapping::anonymous(ByteCount{kPageSize});
  if (!any) return;
  // MADV_COLD empties the batches of the CPU that it runs on before it looks at a page.
  const auto drain = [&] { (void)::madvise(any->data(), any->size(), MADV_COLD); };
  cpu_set_t before;
  if (::sched_getaffinity(0, sizeof before, &before) != 0) return drain();
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &before)) continue;
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    if (::sched_setaffinity(0, sizeof one, &one) == 0) drain();
  }
  (void)::sched_setaffinity(0, sizeof before, &before);
}

}  // namespace ramfold::sys
