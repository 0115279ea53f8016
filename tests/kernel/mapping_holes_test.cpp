// SPDX-License-Identifier: GPL-2.0-or-later
// Holes of the RAM file beside pages that come back into it. The RAM file is on a tmpfs of the
// test's own, mounted nowhere, which gives large folios to every write. So does shmem_enabled to
// RAM files, which is the host's and not for a test to change.
#include "kernel/mapping_rig.hpp"

#include <sys/mount.h>

#include <thread>

#include "guest/ram_mapping.hpp"

using namespace ramfold;
using namespace ramfold::test;

namespace {

constexpr std::uint64_t kLargePages = 512;  // of a large folio
constexpr const char* kSize = "16m";        // of RAM: a page more has no room

class LargeTmpfs {
 public:
  LargeTmpfs() {
    const sys::Fd fs(::fsopen("tmpfs", FSOPEN_CLOEXEC));
    if (fs.get() < 0 || ::fsconfig(fs.get(), FSCONFIG_SET_STRING, "huge", "always", 0) != 0) return;
    REQUIRE(::fsconfig(fs.get(), FSCONFIG_SET_STRING, "size", kSize, 0) == 0);
    REQUIRE(::fsconfig(fs.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) == 0);
    mount_.reset(::fsmount(fs.get(), FSMOUNT_CLOEXEC, 0));
    REQUIRE(mount_.get() >= 0);
  }
  bool is_there() const { return mount_.get() >= 0; }
  sys::Fd make(const char* name) const {
    sys::Fd file(::openat(mount_.get(), name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
    REQUIRE(file.get() >= 0);
    return file;
  }
  void remove(const char* name) const { REQUIRE(::unlinkat(mount_.get(), name, 0) == 0); }

 private:
  sys::Fd mount_;
};

bool is_hole(int file, std::uint64_t page) {
  const auto offset = static_cast<off_t>(page * kPageSize);
  return ::lseek(file, offset, SEEK_DATA) != offset;
}

// A write of one page fills its neighbours with zeros here.
bool writes_are_large(const LargeTmpfs& tmpfs) {
  const sys::Fd file = tmpfs.make("probe");
  tmpfs.remove("probe");
  constexpr PageCopy page{};
  REQUIRE(::ftruncate(file.get(), off_t{2 * kLargePages * kPageSize}) == 0);
  REQUIRE(::pwrite(file.get(), page.bytes.data(), kPageSize, off_t{kLargePages * kPageSize}) ==
          kPageSize);
  REQUIRE_FALSE(is_hole(file.get(), kLargePages));
  return !is_hole(file.get(), kLargePages + 1);
}

struct Holes {
  static Holes* get() {
    static Holes* const holes = make();
    return holes;
  }
  LargeTmpfs tmpfs;
  std::unique_ptr<MappingRig> rig;

  // Pages of a large folio's place are in the pool or folded: none is in the RAM file.
  void empty(std::uint64_t first, std::uint32_t content) const {
    for (unsigned i = 0; i < 16; ++i) rig->fill(first + i, content + i);
    REQUIRE(rig->share(first, content) == 0xffff);
    REQUIRE(sys::punch(sys::BorrowedFd(rig->ram()), ByteCount{first * kPageSize},
                       ByteCount{kLargePages * kPageSize}));
    REQUIRE(holes(first, 0) == kLargePages);
  }
  // From first + `from` on.
  unsigned holes(std::uint64_t first, unsigned from) const {
    unsigned n = 0;
    for (std::uint64_t p = first + from; p < first + kLargePages; ++p)
      n += rig->in_ram_file(p) ? 0 : 1;
    return n;
  }

 private:
  static Holes* make() {
    auto* const made = new Holes;  // to the end, as the rig
    if (!made->tmpfs.is_there()) {
      WARN("there is no tmpfs with large folios for this user, or on this kernel");
      return nullptr;
    }
    if (!writes_are_large(made->tmpfs)) WARN("a write of a page makes a small folio here");
    made->rig = std::make_unique<MappingRig>(ServedBy::rig, made->tmpfs.make("ram"));
    return made;
  }
};

}  // namespace

TEST_CASE("D7: pages that are put back make no zeros of the holes beside them") {
  Holes* const holes = Holes::get();
  if (holes == nullptr) return;
  MappingRig& rig = *holes->rig;
  constexpr std::uint64_t kFirst = 2 * kLargePages;
  holes->empty(kFirst, 100);
  *rig.at(kFirst + 3) = 55;
  CHECK(rig.restore(kFirst, 8) == 0xff);
  for (unsigned i = 0; i < 8; ++i) {
    CHECK(rig.in_ram_file(kFirst + i));
    CHECK(*rig.at(kFirst + i) == (i == 3 ? 55 : static_cast<char>(100 + i)));
  }
  CHECK(holes->holes(kFirst, 8) == kLargePages - 8);
  CHECK(rig.restore(kFirst) == 0xff00);
  for (unsigned i = 8; i < 16; ++i) CHECK(*rig.at(kFirst + i) == static_cast<char>(100 + i));
  CHECK(holes->holes(kFirst, 16) == kLargePages - 16);
  CHECK(rig.pool.taken() == 0);
}

TEST_CASE("D7: a page that the daemon puts into a hole makes no zeros of the holes beside it") {
  Holes* const holes = Holes::get();
  if (holes == nullptr) return;
  MappingRig& rig = *holes->rig;
  constexpr std::uint64_t kFirst = 3 * kLargePages;
  REQUIRE(sys::punch(sys::BorrowedFd(rig.ram()), ByteCount{kFirst * kPageSize},
                     ByteCount{kLargePages * kPageSize}));
  PageCopy page{};
  page.bytes.fill(std::byte{7});
  REQUIRE(rig.vm->write_hole(PageIndex{kFirst}, page.bytes.data()));
  PageCopy read{};
  REQUIRE(rig.vm->read_pages(MappingRig::window(kFirst, 1), read.bytes.data()));
  CHECK(read.bytes == page.bytes);
  CHECK(holes->holes(kFirst, 1) == kLargePages - 1);
}

TEST_CASE("a RAM file that gets no memory is an error, no signal, and pages keep their bytes") {
  Holes* const holes = Holes::get();
  if (holes == nullptr) return;
  MappingRig& rig = *holes->rig;
  constexpr std::uint64_t kFirst = 4 * kLargePages;
  holes->empty(kFirst, 200);
  *rig.at(kFirst + 3) = 55;
  {
    const sys::Fd ballast = holes->tmpfs.make("ballast");
    constexpr PageCopy page{};
    for (off_t at = 0; ::pwrite(ballast.get(), page.bytes.data(), kPageSize, at) == kPageSize;)
      at += kPageSize;
    REQUIRE(errno == ENOSPC);
    CHECK(rig.restore(kFirst) == 0);
    CHECK(rig.port.last.status == RF_ANSWER_FAILED);
    CHECK(rig.port.last.error == EFAULT);
    const Status written = rig.vm->write_hole(PageIndex{kFirst + 20}, page.bytes.data());
    REQUIRE_FALSE(written);
    CHECK(written.error().code == ENOSPC);
    holes->tmpfs.remove("ballast");
  }
  CHECK(holes->holes(kFirst, 0) == kLargePages);
  for (unsigned i = 0; i < 16; ++i) {
    CHECK(rig.maps_pool(kFirst + i));
    CHECK(*rig.at(kFirst + i) == (i == 3 ? 55 : static_cast<char>(200 + i)));
  }
  CHECK(rig.restore(kFirst) == 0xffff);
  CHECK(*rig.at(kFirst + 3) == 55);
  CHECK(rig.pool.taken() == 0);
}

TEST_CASE("a look at RAM beside pages that go back finds it where the agent said") {
  Holes* const holes = Holes::get();
  if (holes == nullptr) return;
  MappingRig& rig = *holes->rig;
  constexpr std::uint64_t kFirst = 5 * kLargePages;
  constexpr unsigned kPages = 128;  // more than are copied in one step
  const rf_block& offered = rig.vm->record().block[0];
  const std::array blocks{guest::RamBlock{{static_cast<dev_t>(offered.device), offered.inode},
                                          HostVirt{offered.address},
                                          ByteCount{offered.size},
                                          ByteCount{offered.offset}}};
  const sys::Procfs procfs;
  std::atomic<bool> stop{false};
  std::thread mapper([&] {
    while (!stop) {
      // Without the daemon's words: the agent's part alone, all pages with one command.
      const std::array run{PageRun{PageIndex{kFirst}, PageCount{kPages}}};
      const std::array slot{ByteCount{3000 * kPageSize}};
      (void)rig.port.send(guest::AgentAct::map, run, slot);
      (void)rig.port.send(guest::AgentAct::restore, run);
    }
  });
  unsigned seen = 0;
  unsigned wrong = 0;
  for (unsigned looks = 0; looks < 3000 && (looks < 1000 || seen < 10); ++looks) {
    if (!guest::look_at_ram(procfs, ::getpid(), blocks, rig.pool.file()).exact) ++wrong;
    (void)procfs.mappings(::getpid(), [&](const sys::MapEntry& entry) {
      if (entry.inode == offered.inode && entry.writable && !entry.readable) ++seen;
      return true;
    });
  }
  stop = true;
  mapper.join();
  CHECK(wrong == 0);
  WARN("the mapping was there in " << seen << " looks");
}
