// SPDX-License-Identifier: GPL-2.0-or-later
// The counters of one VM. A new counter is a member and its line in visit(), which exports it
// (docs/control-protocol.md, "Counters").
// Threads: any.
#pragma once

#include <array>

#include "base/counters.hpp"
#include "base/metric.hpp"

namespace ramfold::guest {

struct VmCounters {
  // Pages now, by kind. Derived; rebuilt after a restart.
  Counter folded_zero, folded_content, clean, poisoned;
  // Events.
  Counter folds_zero, folds_shared, folds_stored, folds_again;
  Counter observed, aborted_by_write, aborted_by_gate, aborted_by_discard, aborted_not_quiet,
      changed_while_cold;
  // Of aborted_not_quiet, by what the kernel says (guest/pin_proof.hpp).
  Counter not_quiet_busy, not_quiet_large, not_quiet_mapped_more, not_quiet_other;
  Counter faults_zero, faults_content, faults_write_guarded, faults_late, faults_busy,
      faults_pending, neighbours_brought, neighbour_runs_cut, spun_ns;
  Counter forgotten, retouched, touch_ns;
  Counter maps, restores, map_written;
  Counter returned_soon, zero_filled, errors, no_memory_waits, corrupt, damaged_words,
      discards_seen, unregistered_chunks;
  Counter backed_off;
  LatencyHistogram latency_zero, latency_content, latency_guarded;

  // Time that the VM's threads lost by ramfold, summed over the threads: waits for an answer to a
  // fault, and touches of forgotten pages.
  std::uint64_t stalled_ns() const noexcept {
    return latency_zero.sum_ns() + latency_content.sum_ns() + latency_guarded.sum_ns() +
           touch_ns.get();
  }
};

template <typename V, ConstOr<VmCounters> S>
constexpr void visit(V& v, S& s) {
  v(gauge("folded_zero_pages", "Folded pages whose bytes are zeros."), s.folded_zero);
  v(gauge("folded_content_pages", "Folded pages that name a stored content."), s.folded_content);
  v(gauge("clean_pages", "Resident pages that are guarded and equal to a stored content."),
    s.clean);
  v(gauge("poisoned_pages", "Pages whose bytes are lost."), s.poisoned);

  v(counter("folds_zero", "Pages of zeros that were folded."), s.folds_zero);
  v(counter("folds_shared", "Pages that were folded onto a content that was stored before."),
    s.folds_shared);
  v(counter("folds_stored", "Pages that were folded and whose content was stored for it."),
    s.folds_stored);
  v(counter("folds_again", "Clean pages that were folded onto the content that they still had."),
    s.folds_again);

  v(counter("pages_observed", "Pages that the scan read and hashed."), s.observed);
  v(counter("folds_aborted_by_write",
            "Pages that were not folded because a fault took them first."),
    s.aborted_by_write);
  v(counter("folds_aborted_by_gate", "Runs of pages that were given up because the gate closed."),
    s.aborted_by_gate);
  v(counter("folds_aborted_by_discard", "Pages that were not folded because QEMU discarded them."),
    s.aborted_by_discard);
  v(counter("folds_aborted_not_quiet",
            "Pages that were not folded because nothing showed that no device writes to them."),
    s.aborted_not_quiet);
  v(counter("not_quiet_busy", "Pages that stayed because a device, or somebody else, held them."),
    s.not_quiet_busy);
  v(counter("not_quiet_large", "Pages that stayed because they are part of a large folio."),
    s.not_quiet_large);
  v(counter("not_quiet_mapped_more", "Pages that stayed because they are mapped more than once."),
    s.not_quiet_mapped_more);
  v(counter("not_quiet_other", "Pages that stayed because they changed while the kernel looked."),
    s.not_quiet_other);
  v(counter("pages_changed_while_cold",
            "Pages that were to be folded and had changed since they were observed."),
    s.changed_while_cold);

  v(counter("faults_zero", "Faults that were answered with a page of zeros."), s.faults_zero);
  v(counter("faults_content", "Faults that were answered with a stored content."),
    s.faults_content);
  v(counter("faults_write", "Writes to a guarded page that were let through."),
    s.faults_write_guarded);
  v(counter("faults_late", "Fault events of pages that were resident when they were read."),
    s.faults_late);
  v(counter("faults_busy",
            "Fault events that had to wait: another thread had the page, or too "
            "many faults waited for the store."),
    s.faults_busy);
  v(counter("faults_pending", "Faults that waited for the store to fetch their content."),
    s.faults_pending);

  v(counter("neighbours_brought", "Folded pages that came back with a faulting page beside them."),
    s.neighbours_brought);
  v(counter("neighbour_runs_cut",
            "Times that the kernel or a discard stopped neighbours from coming along."),
    s.neighbour_runs_cut);

  v(counter("fault_spin_ns",
            "Nanoseconds for which fault threads stayed awake for the next event."),
    s.spun_ns);

  v(counter("pages_forgotten", "Pages that were asked about: `forget` or `page_idle`."),
    s.forgotten);
  v(counter("pages_retouched", "Pages that were asked about and that the guest touched again."),
    s.retouched);
  v(counter("touch_ns",
            "Nanoseconds that these touches took: 1500 for a forgotten page, 0 with `page_idle`."),
    s.touch_ns);
  v(counter("maps", "Pages whose addresses were made to map the pool."), s.maps);
  v(counter("restores", "Pages that mapped the pool and were put back into the RAM file."),
    s.restores);
  v(counter("map_written", "Pages that mapped the pool and were found written."), s.map_written);
  v(counter("returned_soon", "Folded pages that came back within a few passes."), s.returned_soon);
  v(counter("zero_filled_pages",
            "Pages of zeros that were filled in, neighbours of faulting "
            "pages included."),
    s.zero_filled);
  v(counter("errors", "Calls to the kernel or the store that failed."), s.errors);
  v(counter("no_memory_waits",
            "Times that a page could not come back at once because the host "
            "had no memory."),
    s.no_memory_waits);
  v(counter("reads_corrupt", "Reads of stored contents that were damaged."), s.corrupt);
  v(counter("damaged_words", "Damaged words of the page table that were found."), s.damaged_words);
  v(counter("discards_seen", "Pages that were found to be discarded by QEMU."), s.discards_seen);
  v(counter("unregistered_chunks",
            "Chunks of RAM that were unregistered after their pages were "
            "back."),
    s.unregistered_chunks);
  v(counter("backed_off", "Times that folding stopped because the VM exceeded its stall budget."),
    s.backed_off);

  v(latency("zero", "Time from a fault to the page of zeros."), s.latency_zero);
  v(latency("content", "Time from a fault to the stored content."), s.latency_content);
  v(latency("write", "Time from a write to a guarded page until it may go on."), s.latency_guarded);
}

// Adds the events of `from` to those of `to`; amounts and durations are left alone.
void add_events(const VmCounters& from, VmCounters& to) noexcept;

}  // namespace ramfold::guest
