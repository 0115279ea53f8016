// SPDX-License-Identifier: GPL-2.0-or-later
// Idle page tracking, over files that stand for the kernel's: which words are read and written.
#include "sys/idle_pages.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <catch2/catch.hpp>
#include <string>

#include "fake_tree.hpp"
#include "sys/pagemap.hpp"

using namespace ramfold;
using sys::IdlePages;

namespace {

constexpr std::uint64_t kPresent = std::uint64_t{1} << 63;

struct Tree : test::FakeTree {
  Tree() {
    write("bitmap", std::string(4096, '\0'));
    write("pagemap", "");
    set_entry(IdlePages::probe(), kPresent | 77);
  }
  void set_entry(HostVirt page, std::uint64_t entry) const {
    put("pagemap", page.value >> kPageShift, entry);
  }
  void put(const char* file, std::uint64_t word, std::uint64_t value) const {
    const sys::Fd fd(::open((root() + "/" + file).c_str(), O_WRONLY));
    REQUIRE(::pwrite(fd.get(), &value, 8, static_cast<off_t>(word * 8)) == 8);
  }
  std::uint64_t word(std::uint64_t index) const {
    const sys::Fd fd(::open((root() + "/bitmap").c_str(), O_RDONLY));
    std::uint64_t value = 0;
    REQUIRE(::pread(fd.get(), &value, 8, static_cast<off_t>(index * 8)) == 8);
    return value;
  }
  IdlePages::Files files() const { return {root() + "/bitmap", root() + "/pagemap"}; }
};

}  // namespace

TEST_CASE("idle pages: the reason why they cannot be used is told") {
  const Tree tree;
  REQUIRE(IdlePages::open(tree.files()).has_value());
  SECTION("the kernel lacks them") {
    tree.remove("bitmap");
    CHECK(IdlePages::open(tree.files()).error().text().find("CONFIG_IDLE_PAGE_TRACKING") !=
          std::string::npos);
  }
  SECTION("frame numbers are hidden") {
    tree.set_entry(IdlePages::probe(), kPresent);
    CHECK(IdlePages::open(tree.files()).error().text().find("CAP_SYS_ADMIN") != std::string::npos);
  }
  SECTION("the page map cannot be read") {
    tree.remove("pagemap");
    CHECK_FALSE(IdlePages::open(tree.files()).has_value());
  }
}

TEST_CASE("idle pages: each frame has its bit, and each word is written once") {
  const Tree tree;
  const auto idle = IdlePages::open(tree.files());
  REQUIRE(idle.has_value());
  const std::array<std::uint64_t, 6> frames{130, 3, 0, 128, 63, 64};
  REQUIRE(idle->mark(frames).has_value());
  CHECK(tree.word(0) == (std::uint64_t{1} << 3 | std::uint64_t{1} << 63));
  CHECK(tree.word(1) == 1);
  CHECK(tree.word(2) == 0b101);
  CHECK(tree.word(3) == 0);
  tree.put("bitmap", 2, 0b100);  // frame 128 is touched
  std::array<bool, 6> marked{};
  REQUIRE(idle->read(frames, marked).has_value());
  CHECK(marked == std::array<bool, 6>{true, true, false, false, true, true});
}

TEST_CASE("idle pages: a frame beyond the kernel's bitmap is an error, never an answer") {
  const Tree tree;
  const auto idle = IdlePages::open(tree.files());
  REQUIRE(idle.has_value());
  const std::array<std::uint64_t, 2> frames{1, 1'000'000};
  std::array<bool, 2> marked{};
  CHECK_FALSE(idle->read(frames, marked).has_value());
}

TEST_CASE("frames of pages: only of those in the page table") {
  const Tree tree;
  constexpr HostVirt kBase{std::uint64_t{0x7f00'0000'0000}};
  tree.set_entry(kBase, kPresent | 0x1234);
  tree.set_entry(HostVirt{kBase.value + kPageSize}, std::uint64_t{1} << 62 | 55);  // swapped out
  tree.set_entry(HostVirt{kBase.value + 3 * kPageSize},
                 kPresent | std::uint64_t{1} << 61 | std::uint64_t{1} << 57 | 9);
  const sys::Fd pagemap(::open((tree.root() + "/pagemap").c_str(), O_RDONLY));
  std::array<std::uint64_t, 4> frames{};
  REQUIRE(sys::read_frames(pagemap, {kBase, ByteCount{4 * kPageSize}}, frames).has_value());
  CHECK(frames == std::array<std::uint64_t, 4>{0x1234, 0, 0, 9});
  std::array<std::uint64_t, 5> beyond{};
  CHECK_FALSE(sys::read_frames(pagemap, {kBase, ByteCount{5 * kPageSize}}, beyond).has_value());
}
