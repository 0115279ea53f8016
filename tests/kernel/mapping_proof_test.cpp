// SPDX-License-Identifier: GPL-2.0-or-later
// A write to the private copy of a page is in flight while the page is put back. The kernel has
// pinned the copy, and waits for the source of the bytes.
#include <sys/uio.h>

#include "guest/private_proof.hpp"
#include "kernel/mapping_rig.hpp"
#include "patience.hpp"
#include "sys/page_batches.hpp"

using namespace ramfold;
using namespace ramfold::test;

namespace {

constexpr std::uint64_t kFirst = 1024;
constexpr char kWritten = 0x77;

const sys::PrivatePins& pins() {
  static const auto loaded = sys::PrivatePins::load(sys::Procfs());
  if (!loaded) {
    std::printf("%s\n", loaded.error().text().c_str());
    std::exit(77);
  }
  return *loaded;
}

sys::PinAnswer says(MappingRig& rig, std::uint64_t page) {
  sys::PinAnswer said{};
  CHECK(pins().ask(rig.vm->pagemap(), rig.vm->address_of(PageIndex{page}), {&said, 1}));
  return said;
}

guest::PageMask restore(MappingRig& rig, guest::QuietProof& proof, std::uint64_t first,
                        std::uint64_t count) {
  fold::RestoringRun run(*rig.vm, rig.vmas, proof, rig.pool, MappingRig::window(first, count));
  REQUIRE(run.restore(rig.port, 1s) == Settled::yes);
  return run.restored();
}

// Writes a page of kWritten to `to`. The kernel pins the target, and then waits for the source: a
// page that is missing until end() brings it.
class SlowWrite {
 public:
  explicit SlowWrite(volatile char* to)
      : source_(std::move(*sys::Mapping::anonymous(ByteCount{kPageSize}))) {
    const sys::Fd device(::open("/dev/userfaultfd", O_RDWR | O_CLOEXEC));
    missing_.reset(::ioctl(device.get(), _IO(0xAA, 0x00), O_CLOEXEC | O_NONBLOCK));
    uffdio_api api{};
    api.api = UFFD_API;
    REQUIRE(::ioctl(missing_.get(), UFFDIO_API, &api) == 0);
    uffdio_register range{};
    range.range = {address(), kPageSize};
    range.mode = UFFDIO_REGISTER_MODE_MISSING;
    REQUIRE(::ioctl(missing_.get(), UFFDIO_REGISTER, &range) == 0);
    thread_ = std::thread([this, to] {
      const iovec from{source_.data(), kPageSize};
      const iovec target{const_cast<char*>(to), kPageSize};
      written_ = ::process_vm_writev(::getpid(), &from, 1, &target, 1, 0);
    });
    pollfd ready{missing_.get(), POLLIN, 0};
    REQUIRE(::poll(&ready, 1, test::patient(10'000)) == 1);
  }
  void end() {
    std::array<char, kPageSize> bytes;
    bytes.fill(kWritten);
    uffdio_copy copy{};
    copy.dst = address();
    copy.src = reinterpret_cast<std::uint64_t>(bytes.data());
    copy.len = kPageSize;
    REQUIRE(::ioctl(missing_.get(), UFFDIO_COPY, &copy) == 0);
    thread_.join();
    REQUIRE(written_ == kPageSize);
  }

 private:
  std::uint64_t address() const { return reinterpret_cast<std::uint64_t>(source_.data()); }

  sys::Mapping source_;
  sys::Fd missing_;
  std::thread thread_;
  std::atomic<ssize_t> written_{0};
};

}  // namespace

TEST_CASE("D1: a copy to which a write is in flight is not put back, and its neighbours are") {
  MappingRig& rig = MappingRig::get();
  guest::PrivateProof proof(pins());
  for (unsigned i = 0; i < 4; ++i) rig.fill(kFirst + i, 1200 + i);
  REQUIRE(rig.share(kFirst, 1200, 4) == 0xf);
  *rig.at(kFirst) = 0x11;  // a copy that nobody holds
  SlowWrite write(rig.at(kFirst + 1));
  REQUIRE(says(rig, kFirst + 1) == sys::PinAnswer::busy);

  guest::PageMask back = 0;
  CHECK(soon([&] {
    sys::drain_page_batches();
    back |= restore(rig, proof, kFirst, 4);
    return back == 0b1101;
  }));
  CHECK(rig.tag(kFirst + 1) == Tag::mapped);
  CHECK(rig.maps_pool(kFirst + 1));
  write.end();
  CHECK(*rig.at(kFirst + 1) == kWritten);
  CHECK(soon([&] {
    sys::drain_page_batches();
    return restore(rig, proof, kFirst, 4) == 0b10;
  }));
  CHECK(*rig.at(kFirst + 1) == kWritten);
  CHECK(*rig.at(kFirst) == 0x11);
  CHECK(*rig.at(kFirst + 2) == static_cast<char>(1202));
  CHECK(rig.pool.taken() == 0);
}

TEST_CASE("D1: without the proof a write in flight to a copy is lost") {
  MappingRig& rig = MappingRig::get();
  rig.fill(kFirst + 16, 1220);
  REQUIRE(rig.share(kFirst + 16, 1220, 1) == 1);
  SlowWrite write(rig.at(kFirst + 16));
  REQUIRE(restore(rig, rig.proof, kFirst + 16, 1) == 1);
  write.end();
  CHECK(*rig.at(kFirst + 16) == static_cast<char>(1220));
}

TEST_CASE("pages that were only read, or never touched, are put back at once") {
  MappingRig& rig = MappingRig::get();
  guest::PrivateProof proof(pins());
  for (unsigned i = 0; i < 16; ++i) rig.fill(kFirst + 32 + i, 1240 + i);
  REQUIRE(rig.share(kFirst + 32, 1240) == 0xffff);
  for (unsigned i = 0; i < 8; ++i) CHECK(*rig.at(kFirst + 32 + i) == static_cast<char>(1240 + i));
  CHECK(restore(rig, proof, kFirst + 32, 16) == 0xffff);
  for (unsigned i = 0; i < 16; ++i) CHECK(*rig.at(kFirst + 32 + i) == static_cast<char>(1240 + i));
}
