// SPDX-License-Identifier: GPL-2.0-or-later
// D7: RAM that got large folios before its VM was attached, under settings that have changed since.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <cstdio>
#include <fstream>
#include <optional>
#include <string>

#include "agent/wire.h"
#include "guest/facts.hpp"
#include "sys/large_folios.hpp"
#include "sys/memory.hpp"

using namespace ramfold;

namespace {

constexpr ByteCount kSize{4u << 20};
constexpr const char* kSetting = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";

// Large folios for who asks for them; the host's own setting afterwards.
class Allowed {
 public:
  Allowed() {
    std::ifstream file(kSetting);
    std::string word;
    while (file >> word) {
      if (word.front() == '[') before_ = word.substr(1, word.size() - 2);
    }
    set("advise");
  }
  ~Allowed() { set(before_); }
  bool possible() const { return !before_.empty(); }

 private:
  static void set(const std::string& word) { std::ofstream(kSetting) << word; }
  std::string before_;
};

struct Ram {
  explicit Ram(int advice)
      : file(std::move(*sys::make_memfd("memory-backend-memfd", kSize, sys::Sealed::yes))) {
    mapping = std::move(*sys::Mapping::shared(file, kSize));
    REQUIRE(::madvise(mapping.data(), kSize.value, advice) == 0);
    for (std::size_t at = 0; at < kSize.value; at += kPageSize) mapping.data()[at] = std::byte{1};
    // As a fork or a lifted mapping leaves it: the pages are there, piece by piece.
    REQUIRE(::madvise(mapping.data(), kSize.value, MADV_DONTNEED) == 0);
    for (std::size_t at = 0; at < kSize.value; at += kPageSize) {
      (void)static_cast<volatile std::byte*>(mapping.data())[at];
    }
  }
  HostVirt address() const { return HostVirt{reinterpret_cast<std::uintptr_t>(mapping.data())}; }
  bool refused() const {
    struct stat st{};
    REQUIRE(::fstat(file.get(), &st) == 0);
    const guest::RamBlock block{{st.st_dev, st.st_ino}, address(), kSize, ByteCount{0}};
    const sys::Procfs procfs;
    const guest::ProcFacts facts(procfs, {});
    guest::VmToCheck what;
    what.pid = ::getpid();
    what.blocks = {&block, 1};
    what.agent_capabilities &= ~std::uint64_t{RF_CAP_SMALL_FOLIOS};  // an older agent's
    const guest::Facts found = facts.read(what);
    return std::ranges::any_of(found.reasons, [](const guest::Reason& r) {
      return r.code == guest::ReasonCode::large_folios &&
             r.text.find("before it was attached") != std::string::npos;
    });
  }

  sys::Fd file;
  sys::Mapping mapping;
};

}  // namespace

TEST_CASE(
    "D7: large folios from before are found, however they are mapped, and the VM is refused") {
  const sys::Procfs procfs;
  const std::uint64_t before = procfs.large_shmem_folios_made();
  std::optional<Ram> large;
  {
    const Allowed allowed;
    if (!allowed.possible() || ::geteuid() != 0) {
      std::puts("needs root and a kernel that can give shared memory folios of 2 MiB");
      std::exit(77);
    }
    large.emplace(MADV_HUGEPAGE);
  }
  if (procfs.large_shmem_folios_made() == before) {
    std::puts("the kernel had no large folio to give");
    std::exit(77);
  }
  const Ram small(MADV_NOHUGEPAGE);
  const auto in_large = sys::has_large_folio(::getpid(), {large->address(), kSize});
  REQUIRE(in_large);
  CHECK(*in_large);
  const auto in_small = sys::has_large_folio(::getpid(), {small.address(), kSize});
  REQUIRE(in_small);
  CHECK_FALSE(*in_small);
  CHECK(large->refused());
  CHECK_FALSE(small.refused());
}
