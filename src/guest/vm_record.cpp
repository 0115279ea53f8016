// SPDX-License-Identifier: GPL-2.0-or-later
#include "guest/vm_record.hpp"

#include <unistd.h>
#include <cstring>

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace ramfold::guest {
namespace {

std::uint64_t checksum_of(VmRecord record) noexcept {
  record.checksum = 0;
  return XXH3_64bits(&record, sizeof record);
}

bool terminated(const char* text, std::size_t size) noexcept {
  return std::memchr(text, 0, size) != nullptr;
}

}  // namespace

Status write_record(sys::BorrowedFd file, VmRecord record) {
  record.checksum = checksum_of(record);
  if (::pwrite(file.get(), &record, sizeof record, 0) != static_cast<ssize_t>(sizeof record)) {
    return fail_errno("write a VM's record");
  }
  return {};
}

Result<VmRecord> read_record(sys::BorrowedFd file) {
  VmRecord record;
  if (::pread(file.get(), &record, sizeof record, 0) != static_cast<ssize_t>(sizeof record)) {
    return fail_errno("read a VM's record");
  }
  if (record.magic != kVmRecordMagic || record.version != kVmRecordVersion) {
    return fail(
        "a VM's record is of another version: run the ramfold that wrote it, `ramfold off`, then "
        "upgrade");
  }
  if (record.checksum != checksum_of(record))
    return fail("a VM's record does not match its checksum");
  if (record.blocks == 0 || record.blocks > RF_BLOCKS_MAX ||
      !terminated(record.name, sizeof record.name) ||
      !terminated(record.uuid, sizeof record.uuid) ||
      !terminated(record.group, sizeof record.group)) {
    return fail("a VM's record is out of bounds");
  }
  return record;
}

Status note_flags(sys::BorrowedFd file, std::uint32_t set, std::uint32_t clear) {
  auto record = read_record(file);  // with what was noted since it was handed over
  if (!record) return std::unexpected(record.error());
  record->flags = (record->flags & ~clear) | set;
  return write_record(file, *record);
}

std::uint64_t word_seed(const VmRecord& record) noexcept {
  return XXH3_64bits_withSeed(record.instance, sizeof record.instance, record.vm);
}

Status note_left_by(sys::BorrowedFd file, std::int32_t daemon, std::uint64_t start_ticks) {
  auto record = read_record(file);  // with what was noted since it was handed over
  if (!record) return std::unexpected(record.error());
  record->left_by_pid = daemon;
  record->left_by_start = start_ticks;
  return write_record(file, *record);
}

}  // namespace ramfold::guest
