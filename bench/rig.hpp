// SPDX-License-Identifier: GPL-2.0-or-later
// One guest process with folding and fault service as in the daemon, for benches that must measure
// only these.
// Threads: the bench's, and the fault service's.
#pragma once

#include <cstdio>
#include <memory>

#include "fault/server.hpp"
#include "fold/folder.hpp"
#include "guest/pin_proof.hpp"
#include "kernel/guest_process.hpp"
#include "kernel/pin_test.hpp"
#include "scan/plan.hpp"
#include "store/contents.hpp"

namespace ramfold::bench {

class Rig {
 public:
  Rig(std::shared_ptr<store::Contents> contents, std::uint32_t id, std::uint64_t pages,
      bool serve = true,
      std::unique_ptr<guest::QuietProof> proof =
          std::make_unique<guest::PinProof>(test::pin_test()),
      store::ContentSource* source = nullptr)
      : contents_(std::move(contents)),
        process_(test::GuestProcess::start(PageCount{pages})),
        vm_(process_->make_vm(id)),
        group_(*contents_->group("bench")),
        proof_(std::move(proof)) {
    (void)vm_->gate().open(0, vm_->gate().epoch());
    if (!serve) return;
    const auto pool = *fault::Pool::make();
    if (!pool->begin()) std::fprintf(stderr, "no thread for faults\n");
    faults_ = std::move(
        *fault::Server::start(pool, *vm_, source != nullptr ? *source : *contents_, group_, 1));
  }
  // CPU time of the threads that serve its faults.
  std::uint64_t fault_cpu_ns() { return faults_->cpu_ns(); }
  // A pass over everything: observes what is new, folds what did not change since the last.
  void pass(bool may_fold = true) {
    vm_->next_pass();
    for (std::size_t chunk = 0; chunk < chunks(); ++chunk) pass_over(chunk, may_fold);
  }
  // A pass's work at one chunk.
  void pass_over(std::size_t chunk, bool may_fold = true) {
    const auto n = planner_.plan(*vm_, chunk, {1}, *windows_);
    for (std::size_t i = 0; n && i < *n; ++i) {
      folder_->look(*vm_, group_, (*windows_)[i]);
      if (may_fold) folder_->leave(*vm_, group_, (*windows_)[i], {});
    }
  }
  std::size_t chunks() const { return scan::chunk_count(*vm_); }
  // A pass that only observes, however often the pages stayed the same.
  void observe_all() {
    for (std::size_t chunk = 0; chunk < chunks(); ++chunk) {
      const auto n = planner_.plan(*vm_, chunk, {guest::Word::kAgeMax}, *windows_);
      for (std::size_t i = 0; n && i < *n; ++i) folder_->look(*vm_, group_, (*windows_)[i]);
    }
  }
  test::GuestProcess& process() { return *process_; }
  guest::Vm& vm() { return *vm_; }
  // How often a page stayed because something held it.
  std::uint64_t held() { return vm_->counters().not_quiet_busy.get(); }
  std::uint64_t folded() {
    return vm_->counters().folded_zero.get() + vm_->counters().folded_content.get();
  }

  static std::shared_ptr<store::Contents> make_store() {
    return std::move(*store::Contents::create(ByteCount{std::uint64_t{8} << 30}));
  }

 private:
  std::shared_ptr<store::Contents> contents_;
  std::unique_ptr<test::GuestProcess> process_;
  std::unique_ptr<guest::Vm> vm_;
  store::GroupUse group_;
  std::unique_ptr<fault::Server> faults_;
  std::unique_ptr<std::array<scan::Window, scan::kChunkWindows>> windows_ =
      std::make_unique<std::array<scan::Window, scan::kChunkWindows>>();
  std::unique_ptr<guest::QuietProof> proof_;
  scan::Planner planner_{*proof_};
  std::unique_ptr<fold::Folder> folder_ = std::make_unique<fold::Folder>(*contents_, *proof_);
};

}  // namespace ramfold::bench
