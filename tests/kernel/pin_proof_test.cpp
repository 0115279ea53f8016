// SPDX-License-Identifier: GPL-2.0-or-later
// Folding behind the gate that asks the kernel (guest/pin_proof.hpp): pages that are held in real
// ways stay, and a device write in flight is not lost.
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <unistd.h>

#include <thread>

#include "base/page_copy.hpp"
#include "guest/pin_proof.hpp"
#include "kernel/fold_rig.hpp"
#include "sys/memory.hpp"
#include "sys/page_batches.hpp"

using namespace ramfold;
using namespace ramfold::test;
using guest::Tag;

namespace {

constexpr std::uint64_t kPages = 64;
constexpr std::uint64_t kHeld = 21;

// Believes every page to be quiet.
class NoProof final : public guest::QuietProof {
 public:
  guest::ProofAnswer ask(guest::Vm&, PageRun run, guest::PageMask) noexcept override {
    return {guest::all_pages(run.count), guest::all_pages(run.count)};
  }
};

struct PinRig : Rig {
  PinRig() : Rig(kPages) {
    for (std::uint64_t p = 0; p < kPages; ++p) process->store(PageIndex{p}, p + 1);
  }
  // All but page kHeld are folded.
  void fold_others() {
    REQUIRE(soon([&] {
      pass();
      for (std::uint64_t p = 0; p < kPages; ++p) {
        if (p != kHeld && tag(p) != Tag::folded) return false;
      }
      return true;
    }));
  }
  void fold_rest() {
    REQUIRE(soon([&] {
      pass();
      return tag(kHeld) == Tag::folded;
    }));
  }
  void check_all(std::uint64_t seed_of_held = kHeld + 1) {
    for (std::uint64_t p = 0; p < kPages; ++p) {
      const std::uint64_t seed = p == kHeld ? seed_of_held : p + 1;
      CHECK(process->load(PageIndex{p}) == GuestProcess::checksum(seed));
    }
  }
};

// A write to a page of the guest's, from memory of this process that is not there yet: the kernel
// pins the guest's page, and waits for the source.
class SlowWrite {
 public:
  SlowWrite(Rig& rig, std::uint64_t page)
      : file_(std::move(*sys::make_memfd("source", ByteCount{kPageSize}, sys::Sealed::no))),
        source_(std::move(*sys::Mapping::shared(file_, ByteCount{kPageSize}))) {
    const sys::Fd device(::open("/dev/userfaultfd", O_RDWR | O_CLOEXEC));
    faults_ = sys::Fd(::ioctl(device.get(), _IO(0xAA, 0x00), O_CLOEXEC | O_NONBLOCK));
    REQUIRE(faults_);
    const sys::Uffd uffd(faults_);
    REQUIRE(uffd.handshake(sys::Uffd::kFeaturesNeeded).has_value());
    REQUIRE(uffd.register_range(range()).outcome == sys::Outcome::done);
    const iovec remote{reinterpret_cast<void*>(rig.vm->address_of(PageIndex{page}).value),
                       kPageSize};
    const pid_t pid = rig.process->pid();
    writer_ = std::thread([this, pid, remote] {
      const iovec local{source_.data(), kPageSize};
      written_ = ::process_vm_writev(pid, &local, 1, &remote, 1, 0);
    });
    std::array<uffd_msg, 1> event;
    REQUIRE(soon([&] { return uffd.read_events(event).value_or(0) == 1; }));
  }
  ~SlowWrite() {
    if (writer_.joinable()) end(0);
  }
  // The source is there: the write ends.
  void end(std::uint64_t seed) {
    PageCopy page;
    fill_page(seed, page.bytes.data());
    (void)sys::Uffd(faults_).copy(range().start, page.bytes.data(), range().size, sys::Guard::no,
                                  sys::Wake::yes);
    writer_.join();
    CHECK(written_ == static_cast<ssize_t>(kPageSize));
  }

 private:
  sys::UffdRange range() const {
    return {HostVirt{reinterpret_cast<std::uintptr_t>(source_.data())}, ByteCount{kPageSize}};
  }

  sys::Fd file_;
  sys::Mapping source_;
  sys::Fd faults_;
  std::thread writer_;
  ssize_t written_ = 0;
};

}  // namespace

TEST_CASE("every page leaves that nothing holds") {
  PinRig rig;
  REQUIRE(soon([&] {
    rig.pass();
    for (std::uint64_t p = 0; p < kPages; ++p) {
      if (rig.tag(p) != Tag::folded) return false;
    }
    return true;
  }));
  CHECK(rig.vm->counters().errors.get() == 0);
  CHECK(rig.vm->counters().not_quiet_mapped_more.get() == 0);
  rig.check_all();
}

TEST_CASE("D1: a write in flight keeps its page, and is not lost") {
  PinRig rig;
  SlowWrite write(rig, kHeld);
  rig.fold_others();
  CHECK(rig.tag(kHeld) != Tag::folded);
  CHECK(rig.vm->counters().not_quiet_busy.get() >= 1);
  CHECK(rig.vm->counters().aborted_not_quiet.get() >= rig.vm->counters().not_quiet_busy.get());
  write.end(777);
  rig.check_all(777);
  rig.fold_rest();
  rig.check_all(777);
}

TEST_CASE("D1: without the proof the same write is lost") {
  PinRig rig;
  NoProof no_proof;
  rig.folder = std::make_unique<fold::Folder>(*rig.contents, no_proof);
  SlowWrite write(rig, kHeld);
  rig.fold_until(kPages);
  write.end(777);
  CHECK(rig.process->load(PageIndex{kHeld}) == GuestProcess::checksum(kHeld + 1));
}

TEST_CASE("D2: a page that lies in a pipe stays until it is read") {
  PinRig rig;
  int ends[2];
  REQUIRE(::pipe2(ends, O_CLOEXEC) == 0);
  sys::Fd out(ends[0]), in(ends[1]);
  loff_t at = kHeld << kPageShift;
  REQUIRE(::splice(rig.process->ram(), &at, in.get(), nullptr, kPageSize, 0) ==
          static_cast<ssize_t>(kPageSize));
  rig.fold_others();
  CHECK(rig.tag(kHeld) != Tag::folded);
  out.reset();
  in.reset();
  rig.fold_rest();
  rig.check_all();
}

TEST_CASE("D13: a page that is mapped twice stays") {
  PinRig rig;
  // One page alone: a fault maps its neighbours, too.
  auto second = sys::Mapping::shared(sys::BorrowedFd(rig.process->ram()), ByteCount{kPageSize},
                                     ByteCount{kHeld << kPageShift});
  REQUIRE(second.has_value());
  (void)*static_cast<volatile std::byte*>(second->data());
  rig.fold_others();
  CHECK(rig.tag(kHeld) != Tag::folded);
  CHECK(rig.vm->counters().not_quiet_mapped_more.get() >= 1);
  second = sys::Mapping();
  rig.fold_rest();
  rig.check_all();
}

TEST_CASE("each block is asked about in its own file, at its own place") {
  auto process = GuestProcess::start(PageCount{32});
  for (std::uint64_t p = 0; p < 32; ++p) {
    if (p % 3 == 0) process->store(PageIndex{p}, p + 1);
  }
  sys::drain_page_batches();
  // The file's halves, the other way round: pages 0-15 of the VM are pages 16-31 of the file.
  guest::VmRecord record;
  guest::Vm::Files files = process->files_for(1, record);
  const rf_block whole = record.block[0];
  constexpr std::uint64_t kHalf = 16 * kPageSize;
  record.blocks = 2;
  record.block[0] = {whole.address + kHalf, kHalf, kHalf, whole.device, whole.inode};
  record.block[1] = {whole.address, kHalf, 0, whole.device, whole.inode};
  files.rams.push_back(std::move(*files.rams[0].duplicate()));
  auto vm = guest::Vm::make(record, std::move(files));
  REQUIRE(vm.has_value());
  guest::PinProof pins(pin_test());
  for (const auto& [first, there] : {std::pair{0u, 16u}, std::pair{16u, 0u}}) {
    guest::PageMask expected = 0;
    for (std::uint64_t i = 0; i < 16; ++i) {
      if ((there + i) % 3 == 0) expected |= static_cast<guest::PageMask>(1u << i);
    }
    const auto ask = [&](std::uint64_t at, std::uint64_t count) {
      const PageRun run{PageIndex{at}, PageCount{count}};
      return pins.ask(**vm, run, guest::all_pages(run.count));
    };
    CHECK(soon([&] {
      sys::drain_page_batches();
      return ask(first, 16).quiet == expected;
    }));
    CHECK(ask(first, 16).resident == expected);
    CHECK(ask(first + 3, 5).quiet == static_cast<guest::PageMask>(expected >> 3 & 0x1f));
  }
}
