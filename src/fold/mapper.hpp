// SPDX-License-Identifier: GPL-2.0-or-later
// Maps the pool over pages of one VM, and puts them back: finds what a page equals, hands the
// references over between words and store, and keeps the runs whose answers have not come.
// Threads: one at a time; the runs' thread rule holds for share() and restore().
#pragma once

#include <array>
#include <list>
#include <memory>
#include <optional>

#include "fold/restoring.hpp"
#include "fold/sharing.hpp"
#include "fold/vm_pool.hpp"
#include "store/contents.hpp"

namespace ramfold::fold {

class Mapper {
 public:
  using Port = std::shared_ptr<guest::AgentPort>;

  // REQUIRES: all outlive this; the pool is open, and its mappings are known.
  Mapper(guest::Vm& vm, store::Contents& contents, GroupId group, VmPool& pool);
  // Runs that are not settled are abandoned: the daemon or the process ends.
  ~Mapper();

  // Maps those of the `wanted` pages of the run that equal a content which another page names, too.
  // Waits for the agent's answer, a fraction of a second at most. `pins`: of pages in the RAM file.
  // Returns how many are mapped now; before it is settled() none is. REQUIRES: at most
  // kAgentRunPages, in one block.
  unsigned share(PageRun run, guest::PageMask wanted, const Port& port, guest::QuietProof& pins);
  // Puts the pages of the run back whose words say `mapped`. `copies`: the proof for private
  // copies. Returns how many are back. REQUIRES: as above.
  unsigned restore(PageRun run, const Port& port, guest::QuietProof& copies);

  // Looks after the runs that were not settled. `port`: the VM's now, or null. True: there are none
  // any more.
  bool settle(const Port& port);
  bool settled() const noexcept { return left_.empty(); }

  // The pages of the run that have a slot.
  guest::PageMask with_slots(PageRun run) const noexcept;

 private:
  using Refs = std::array<store::Ref, kAgentRunPages.value>;
  struct Left {
    Port port;  // that the command went through
    std::unique_ptr<SharingRun> sharing;
    std::unique_ptr<RestoringRun> restoring;
    Refs refs;  // of `sharing`

    AgentRun& run() const noexcept;
    Settled settle() const noexcept;
  };
  using Contents = std::array<ContentId, kAgentRunPages.value>;

  void believe(PageRun run, guest::PageMask wanted, Contents& contents, Refs& refs) noexcept;
  // Hands over the references of a run that is settled.
  unsigned finish(const SharingRun& run, Refs& refs) noexcept;
  unsigned finish(const RestoringRun& run) noexcept;
  void drop(ContentId content) noexcept;

  guest::Vm& vm_;
  store::Contents& contents_;
  GroupId group_;
  VmPool& pool_;
  sys::VmaQuery vmas_;
  std::list<Left> left_;
  std::array<PageCopy, kAgentRunPages.value> copies_;
};

}  // namespace ramfold::fold
