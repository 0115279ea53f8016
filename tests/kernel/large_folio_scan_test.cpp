// SPDX-License-Identifier: GPL-2.0-or-later
// D7: neither the scan, nor a fold with a stale plan, touches pages that are mapped as a large
// folio. The test's own process is the VM; nothing of it is ever punched.
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "fold/folder.hpp"
#include "guest/pin_proof.hpp"
#include "kernel/pin_test.hpp"
#include "scan/plan.hpp"
#include "store/contents.hpp"
#include "sys/memory.hpp"

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25  // since Linux 6.1
#endif

using namespace ramfold;

namespace {

constexpr std::uint64_t kLargeBytes = 2u << 20;
constexpr std::uint64_t kLargePages = kLargeBytes >> kPageShift;
constexpr guest::PageMask kAll = guest::all_pages(PageCount{scan::kWindowPages});
constexpr ByteCount kSize{2 * kLargeBytes};  // the first half becomes one large folio

[[noreturn]] void skip(const char* why) {
  std::puts(why);
  std::exit(77);
}

sys::Fd memory(const char* name, ByteCount size) {
  auto made = sys::make_memfd(name, size, sys::Sealed::yes);
  REQUIRE(made.has_value());
  return std::move(*made);
}

// RAM where a large folio may lie, every page different.
class Ram {
 public:
  Ram() : file(memory("memory-backend-memfd", kSize)) {
    void* room = ::mmap(nullptr, kSize.value + kLargeBytes, PROT_NONE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    REQUIRE(room != MAP_FAILED);
    const auto aligned =
        (reinterpret_cast<std::uintptr_t>(room) + kLargeBytes - 1) & ~(kLargeBytes - 1);
    bytes = reinterpret_cast<std::byte*>(aligned);
    REQUIRE(::mmap(bytes, kSize.value, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file.get(),
                   0) == bytes);
    for (std::uint64_t p = 0; p < kSize.value >> kPageShift; ++p) {
      std::memset(bytes + p * kPageSize, static_cast<int>(p % 250 + 1), kPageSize);
    }
  }

  std::unique_ptr<guest::Vm> make_vm() const {
    const PageCount pages{kSize.value >> kPageShift};
    guest::VmRecord record;
    record.vm = 1;
    record.pid = ::getpid();
    record.blocks = 1;
    record.features = sys::Uffd::kFeaturesNeeded;
    struct stat st{};
    REQUIRE(::fstat(file.get(), &st) == 0);
    record.block[0] = {reinterpret_cast<std::uintptr_t>(bytes), kSize.value, 0, st.st_dev,
                       st.st_ino};
    guest::Vm::Files files;
    files.uffd = sys::Fd(
        static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY)));
    if (!files.uffd) skip("no userfaultfd here");
    REQUIRE(sys::Uffd(files.uffd).handshake(record.features).has_value());
    files.rams.push_back(std::move(*file.duplicate()));
    files.words = memory("words", guest::PageTable::words_size(pages));
    files.shared = memory("shared", guest::PageTable::shared_size(pages));
    auto vm = guest::Vm::make(record, std::move(files));
    REQUIRE(vm.has_value());
    return std::move(*vm);
  }

  sys::Fd file;
  std::byte* bytes = nullptr;
};

}  // namespace

TEST_CASE("D7: what is mapped large is neither planned nor folded") {
  const Ram ram;
  const auto vm = ram.make_vm();
  if (::madvise(ram.bytes, kLargeBytes, MADV_COLLAPSE) != 0)
    skip("the kernel makes no large folio");

  auto windows = std::make_unique<std::array<scan::Window, scan::kChunkWindows>>();
  guest::PinProof seeing(test::pin_test());
  scan::Planner planner(seeing);
  const auto n = planner.plan(*vm, 0, scan::ColdRule{1, 1}, *windows);
  REQUIRE(n.has_value());
  CHECK(*n == kLargePages / scan::kWindowPages);
  for (std::size_t i = 0; i < *n; ++i) {
    CHECK((*windows)[i].pages.first.value >= kLargePages);
    CHECK((*windows)[i].observe == kAll);
  }

  // A plan from before the folio: the page has been observed, and looks unchanged.
  auto made = store::Contents::create(ByteCount{1u << 28});
  REQUIRE(made.has_value());
  const auto group = (*made)->group("test");
  REQUIRE(group.has_value());
  guest::PinProof proof(test::pin_test());
  fold::Folder folder(**made, proof);
  (void)vm->gate().open(0, vm->gate().epoch());
  const scan::Window stale{{PageIndex{0}, PageCount{scan::kWindowPages}}, kAll, 0, 0, 0};
  folder.look(*vm, *group, stale);
  const scan::Window next{{PageIndex{0}, PageCount{scan::kWindowPages}}, 0, kAll, 0, 0};
  folder.leave(*vm, *group, next, {});
  for (std::uint64_t p = 0; p < scan::kWindowPages; ++p) {
    CHECK(vm->table().load(PageIndex{p})->tag() != guest::Tag::folded);
    CHECK(ram.bytes[p * kPageSize] == static_cast<std::byte>(p % 250 + 1));
  }
}
