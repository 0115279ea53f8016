// SPDX-License-Identifier: GPL-2.0-or-later
// What the next daemon must know of a VM: a struct in a memory file that the keeper holds. The
// keeper gets this file last, so a VM without one was never folded.
// Threads: values.
#pragma once

#include <cstdint>

#include "agent/wire.h"
#include "base/result.hpp"
#include "sys/fd.hpp"

namespace ramfold::guest {

inline constexpr std::uint32_t kVmRecordMagic = 0x4d565246;  // "FRVM"
inline constexpr std::uint32_t kVmRecordVersion = 5;

// VmRecord::flags.
// The operator said that the migration which QEMU was started for has ended.
inline constexpr std::uint32_t kRecordIncomingFinished = 1;
// The VM was detached, but has lost pages. It is kept because of them, and not folded.
inline constexpr std::uint32_t kRecordLetGo = 2;
// Its page state was found inconsistent: it is never folded again.
inline constexpr std::uint32_t kRecordInconsistent = 4;

struct VmRecord {
  std::uint32_t magic = kVmRecordMagic;
  std::uint32_t version = kVmRecordVersion;
  std::uint64_t checksum = 0;  // XXH3-64 of the record with this field 0
  std::uint32_t vm = 0;        // VmId
  std::int32_t pid = 0;
  std::uint64_t start_time =
      0;  // of the process, in clock ticks since boot (proc_pid_stat(5), field 22)
  std::uint32_t uid = 0;
  std::uint32_t blocks = 0;
  std::uint64_t features = 0;  // of the userfaultfd
  std::uint8_t instance[16] = {};
  char name[64] = {};
  char uuid[64] = {};
  char group[64] = {};
  rf_block block[RF_BLOCKS_MAX] = {};
  std::uint32_t flags = 0;  // may change later; the whole record is one write of less than a page
  // A daemon that was killed while a thread of it was in a call on this VM's memory. The call may
  // still take effect while that process exists. 0: none.
  std::int32_t left_by_pid = 0;
  std::uint64_t left_by_start = 0;  // clock ticks since boot, as start_time
};
static_assert(sizeof(VmRecord) == 64 + 192 + sizeof(rf_block) * RF_BLOCKS_MAX + 16);

Status write_record(sys::BorrowedFd file, VmRecord record);
// Checks magic, version, checksum and bounds.
Result<VmRecord> read_record(sys::BorrowedFd file);
// Sets and clears flags.
Status note_flags(sys::BorrowedFd file, std::uint32_t set, std::uint32_t clear);
// The seed of the checks in its page table's words: the same in every daemon.
std::uint64_t word_seed(const VmRecord& record) noexcept;
// Sets VmRecord::left_by_pid and left_by_start.
Status note_left_by(sys::BorrowedFd file, std::int32_t daemon, std::uint64_t start_ticks);

}  // namespace ramfold::guest
