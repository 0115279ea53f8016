// SPDX-License-Identifier: GPL-2.0-or-later
// RAM of this process, as QEMU has it and as the agent knows it, and what a guest::Vm of it is made
// from. For tests in which agent and daemon are one process.
// Threads: the test's.
#pragma once

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstring>

#include "agent/wire.h"
#include "guest/vm.hpp"
#include "sys/memory.hpp"

extern "C" {
bool rf_ram_add(void* at, size_t size, int fd, off_t offset, int flags);
void rf_ram_dump(const void* at, size_t size, bool dump);
void rf_ram_freeze(void);
int rf_gate_publish(int fd, std::uint64_t pages, std::uint32_t generation);
}

namespace ramfold::test {

struct AgentRam {
  char* base = nullptr;
  guest::VmRecord record;
  guest::Vm::Files files;  // without a record and a pidfd
};

// `file`: without pages. Every byte is 0x5A afterwards.
inline AgentRam make_agent_ram(const sys::Fd& file, PageCount pages) {
  AgentRam made;
  const ByteCount size = bytes(pages);
  REQUIRE(::ftruncate(file.get(), static_cast<off_t>(size.value)) == 0);
  void* const at = ::mmap(nullptr, size.value, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE,
                          file.get(), 0);
  REQUIRE(at != MAP_FAILED);
  REQUIRE(::madvise(at, size.value, MADV_NOHUGEPAGE) == 0);  // as the agent does
  made.base = static_cast<char*>(at);
  std::memset(made.base, 0x5A, size.value);
  REQUIRE(rf_ram_add(at, size.value, file.get(), 0, MAP_SHARED | MAP_NORESERVE));
  rf_ram_freeze();
  REQUIRE(::madvise(at, size.value, MADV_DONTFORK) == 0);  // as the agent does when it attaches
  REQUIRE(::madvise(at, size.value, MADV_DONTDUMP) == 0);  // as QEMU does
  rf_ram_dump(at, size.value, false);

  guest::VmRecord& record = made.record;
  record.vm = 1;
  record.pid = ::getpid();
  record.blocks = 1;
  struct stat st{};
  REQUIRE(::fstat(file.get(), &st) == 0);
  record.block[0] = {reinterpret_cast<std::uint64_t>(at), size.value, 0, st.st_dev, st.st_ino};
  record.features = sys::Uffd::kFeaturesNeeded | sys::Uffd::kFeaturePoison;
  const sys::Fd device(::open("/dev/userfaultfd", O_RDWR | O_CLOEXEC));
  guest::Vm::Files& files = made.files;
  files.uffd.reset(::ioctl(device.get(), _IO(0xAA, 0x00), O_CLOEXEC | O_NONBLOCK));
  REQUIRE(sys::Uffd(files.uffd).handshake(record.features));
  files.rams.push_back(std::move(*file.duplicate()));
  files.words =
      std::move(*sys::make_memfd("words", guest::PageTable::words_size(pages), sys::Sealed::yes));
  files.shared =
      std::move(*sys::make_memfd("shared", guest::PageTable::shared_size(pages), sys::Sealed::yes));
  return made;
}

// The agent and the daemon share the memory of `shared`, which this takes.
inline void share_with_agent(guest::Vm& vm, int shared) {
  rf_shared& memory = vm.table().shared();
  memory.magic = RF_MAGIC;
  memory.version = RF_VERSION_MAX;
  memory.pages = vm.pages().value;
  REQUIRE(rf_gate_publish(shared, vm.pages().value, 1) == 0);
}

}  // namespace ramfold::test
