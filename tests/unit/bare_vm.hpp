// SPDX-License-Identifier: GPL-2.0-or-later
// A VM without a process and without a userfaultfd: page table, counters and record are real. For
// tests of what the daemon counts and plans.
// Threads: the test's.
#pragma once

#include <sys/types.h>

#include <catch2/catch.hpp>
#include <memory>

#include "daemon/fleet/attached_vm.hpp"
#include "sys/memory.hpp"

namespace ramfold::test {

inline std::shared_ptr<daemon::AttachedVm> bare_vm(PageCount pages, std::uint32_t id = 1,
                                                   uid_t uid = 0, pid_t pid = 0) {
  const auto memory = [](const char* name, ByteCount size) {
    auto made = sys::make_memfd(name, size, sys::Sealed::yes);
    REQUIRE(made.has_value());
    return std::move(*made);
  };
  guest::VmRecord record;
  record.vm = id;
  record.uid = uid;
  record.pid = pid;
  record.blocks = 1;
  record.block[0].size = bytes(pages).value;
  guest::Vm::Files files;
  files.rams.push_back(memory("ram", bytes(pages)));
  files.words = memory("words", guest::PageTable::words_size(pages));
  files.shared = memory("shared", guest::PageTable::shared_size(pages));
  auto vm = guest::Vm::make(record, std::move(files));
  REQUIRE(vm.has_value());
  auto attached = std::make_shared<daemon::AttachedVm>();
  attached->vm = std::move(*vm);
  return attached;
}

}  // namespace ramfold::test
