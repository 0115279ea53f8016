// SPDX-License-Identifier: GPL-2.0-or-later
// Guest RAM among the mappings of a QEMU.
#include "estimate/find_ram.hpp"

#include <fmt/core.h>

#include <catch2/catch.hpp>

#include "../sys/fake_tree.hpp"

using namespace ramfold;
using namespace ramfold::estimate;

namespace {

constexpr pid_t kPid = 77;
constexpr std::uint64_t kMiB = 1u << 20;

std::string mapping(std::uint64_t begin_mib, std::uint64_t size_mib, const char* perms,
                    const char* file, const char* flags) {
  return fmt::format("{:x}-{:x} {} 00000000 {}\nSize: 1 kB\nVmFlags: {}\n", begin_mib * kMiB,
                     (begin_mib + size_mib) * kMiB, perms, file, flags);
}
constexpr const char* kAnonymous = "00:00 0";
constexpr const char* kMemfd = "00:01 1044 /memfd:memory-backend-memfd (deleted)";

struct Tree {
  test::FakeTree files;
  Result<std::vector<RamRange>> find(const std::string& smaps,
                                     const std::vector<MemoryBlock>& blocks) const {
    files.write("proc/77/smaps", smaps);
    return find_ram(sys::Procfs(files.root()), kPid, blocks);
  }
  Result<std::vector<RamRange>> find(const std::string& smaps, std::uint64_t wanted_mib) const {
    return find(smaps, {{ByteCount{wanted_mib * kMiB}, Backing::any, {}, true}});
  }
};

RamRange range(std::uint64_t begin_mib, std::uint64_t size_mib, bool shared = false) {
  return {HostVirt{begin_mib * kMiB}, ByteCount{size_mib * kMiB}, shared};
}

}  // namespace

TEST_CASE("anonymous RAM: the largest block that children do not get") {
  const Tree tree;
  const std::string smaps = mapping(100, 2048, "rw-p", kAnonymous, "rd wr mr mw me ac") +  // heap
                            mapping(4096, 1024, "rwxp", kAnonymous, "rd wr ex mr dc") +    // TCG
                            mapping(8192, 512, "rw-p", kAnonymous, "rd wr mr mw me dc hg mg") +
                            mapping(8704, 16, "rw-p", kAnonymous, "rd wr mr mw me ac dc") +
                            mapping(9000, 16, "rw-p", "00:00 0 [heap]", "rd wr dc");
  // The display's memory lies right behind the RAM: one range with it, as nothing tells them apart.
  CHECK(tree.find(smaps, 512).value() == std::vector{range(8192, 528)});
}

TEST_CASE("a shared RAM file, in parts that lie side by side") {
  const Tree tree;
  const std::string smaps = mapping(8192, 100, "rw-s", kMemfd, "rd wr sh dc") +
                            mapping(8292, 412, "rw-s", kMemfd, "rd wr sh dc nh") +
                            mapping(9000, 16, "rw-p", kAnonymous, "rd wr dc");
  CHECK(tree.find(smaps, 512).value() == std::vector{range(8192, 512, true)});
}

TEST_CASE("RAM of several backends, in order of address") {
  const Tree tree;
  const std::string smaps = mapping(1000, 256, "rw-s", kMemfd, "rd wr sh dc") +
                            mapping(2000, 16, "rw-p", kAnonymous, "rd wr dc") +
                            mapping(3000, 512, "rw-p", "00:00 0 [anon:named]", "rd wr dc");
  CHECK(tree.find(smaps, 768).value() == std::vector{range(1000, 256, true), range(3000, 512)});
}

TEST_CASE("without the mark, size alone has to do") {
  const Tree tree;
  const std::string smaps = mapping(100, 64, "rw-p", kAnonymous, "rd wr ac") +
                            mapping(1000, 512, "rw-p", kAnonymous, "rd wr ac");
  CHECK(tree.find(smaps, 512).value() == std::vector{range(1000, 512)});
}

TEST_CASE("memory devices: all of their RAM, not only the largest block") {
  const Tree tree;
  const std::string smaps = mapping(1000, 64, "rw-p", kAnonymous, "rd wr dc") +
                            mapping(2000, 128, "rw-p", kAnonymous, "rd wr dc") +
                            mapping(3000, 16, "rw-p", kAnonymous, "rd wr dc");
  const MemoryBlock boot{ByteCount{64 * kMiB}, Backing::anonymous, {}, true};
  const MemoryBlock dimm{ByteCount{128 * kMiB}, Backing::anonymous, {}, true};
  CHECK(tree.find(smaps, {boot, dimm}).value() == std::vector{range(1000, 64), range(2000, 128)});
  // Side by side, they are one mapping.
  const std::string one = mapping(1000, 192, "rw-p", kAnonymous, "rd wr dc") +
                          mapping(3000, 16, "rw-p", kAnonymous, "rd wr dc");
  CHECK(tree.find(one, {boot, dimm}).value() == std::vector{range(1000, 192)});
}

TEST_CASE("what is mapped for the guest and is no RAM is left out, however large") {
  const Tree tree;
  constexpr const char* kShared = "00:20 7 /dev/shm/ivshmem";
  constexpr const char* kNvdimm = "08:01 9 /var/lib/nv.img";
  const std::string smaps = mapping(1000, 512, "rw-s", kMemfd, "rd wr sh dc") +
                            mapping(3000, 1024, "rw-s", kShared, "rd wr sh dc") +
                            mapping(5000, 512, "rw-p", kNvdimm, "rd wr dc");
  const auto block = [](std::uint64_t mib, Backing backing, const char* path, bool is_ram) {
    return MemoryBlock{ByteCount{mib * kMiB}, backing, path, is_ram};
  };
  CHECK(tree.find(smaps, {block(512, Backing::memfd, "", true),
                          block(1024, Backing::file, "/dev/shm/ivshmem", false),
                          block(512, Backing::file, "/var/lib/nv.img", false)})
            .value() == std::vector{range(1000, 512, true)});
  // Of another kind, the larger one is not taken in its place.
  CHECK(tree.find(smaps, {block(500, Backing::memfd, "", true)}).value() ==
        std::vector{range(1000, 512, true)});
}

TEST_CASE("RAM in a file that QEMU made in a directory") {
  const Tree tree;
  const std::string smaps =
      mapping(1000, 256, "rw-s", "00:20 7 /dev/shm/qemu_back_mem.ram0.a1B2 (deleted)",
              "rd wr sh dc") +
      mapping(3000, 256, "rw-s", "00:20 8 /dev/shmother", "rd wr sh dc");
  const MemoryBlock ram{ByteCount{256 * kMiB}, Backing::file, "/dev/shm", true};
  CHECK(tree.find(smaps, {ram}).value() == std::vector{range(1000, 256, true)});
}

TEST_CASE("RAM that is not there, and a process that is not") {
  const Tree tree;
  const auto small = tree.find(mapping(100, 64, "rw-p", kAnonymous, "rd wr dc"), 512);
  REQUIRE_FALSE(small);
  CHECK(small.error().code == 0);
  CHECK(small.error().what.find("64 MiB") != std::string::npos);
  const auto gone = find_ram(sys::Procfs(tree.files.root()), 78, {});
  REQUIRE_FALSE(gone);
  CHECK(gone.error().code == ESRCH);
}
