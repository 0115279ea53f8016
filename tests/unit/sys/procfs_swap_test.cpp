// SPDX-License-Identifier: GPL-2.0-or-later
#include <catch2/catch.hpp>

#include "fake_tree.hpp"
#include "sys/procfs.hpp"

using namespace ramfold;
using namespace ramfold::sys;
using ramfold::test::FakeTree;

namespace {

constexpr const char* kHeading = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n";

std::uint64_t disk_kib(const FakeTree& tree, const std::string& lines) {
  tree.write("proc/swaps", kHeading + lines);
  return Procfs(tree.root()).disk_swap_free().value / 1024;
}

}  // namespace

TEST_CASE("swap on disks counts with what is free of it") {
  const FakeTree tree;
  CHECK(disk_kib(tree, "") == 0);
  CHECK(disk_kib(tree,
                 "/dev/sda2                               partition\t1000\t\t300\t\t-2\n"
                 "/swap\\040file                          file\t\t500\t\t0\t\t-3\n") == 1200);
}

TEST_CASE("swap on zram is RAM, by whatever name") {
  const FakeTree tree;
  tree.write("dev/zram0", "");
  tree.write("dev/zram12", "");
  tree.write("dev/zram1p1", "");
  tree.link("dev/disk/by-label/swap", "../../zram0");
  tree.link("sys/class/block/zram1p1", "../../devices/virtual/block/zram1/zram1p1");
  tree.link("sys/class/block/part", "../../devices/virtual/block/zram1/part");
  tree.write("sys/devices/virtual/block/dm-0/slaves/zram0", "");
  tree.link("sys/class/block/dm-0", "../../devices/virtual/block/dm-0");
  tree.write("dev/dm-0", "");
  tree.link("dev/mapper/swap", "../dm-0");
  for (const char* path : {"/dev/zram0", "/dev/zram12", "/dev/zram1p1", "/dev/disk/by-label/swap",
                           "/dev/part", "/dev/dm-0", "/dev/mapper/swap", "/dev/gone/zram3"}) {
    INFO(path);
    CHECK(disk_kib(tree, std::string(path) + "\tpartition\t4000\t\t100\t\t100\n") == 0);
    CHECK(disk_kib(tree, std::string(path) + "\tpartition\t4000\t\t100\t\t100\n" +
                             "/dev/sda2\tpartition\t1000\t\t1\t\t-2\n") == 999);
  }
}

TEST_CASE("what only begins like zram is a disk") {
  const FakeTree tree;
  for (const char* path : {"/dev/zram", "/dev/zramdisk", "/dev/zram0x", "/srv/zram0.img"}) {
    INFO(path);
    CHECK(disk_kib(tree, std::string(path) + "\tfile\t1000\t\t0\t\t-2\n") == 1000);
  }
}

TEST_CASE("swap that is not understood is none") {
  const FakeTree tree;
  CHECK(disk_kib(tree, "/dev/sda2\tpartition\t10\t\t11\t\t-2\n") == 0);
  CHECK(disk_kib(tree, "/dev/sda2\tpartition\tmany\t\t1\t\t-2\n") == 0);
  tree.remove("proc/swaps");
  CHECK(Procfs(tree.root()).disk_swap_free() == ByteCount{0});
}

TEST_CASE("the host's memory has both figures of free swap") {
  const FakeTree tree;
  tree.write("proc/meminfo", "MemTotal: 100 kB\nMemAvailable: 50 kB\nSwapFree: 70 kB\n");
  tree.write("proc/swaps", std::string(kHeading) + "/dev/zram0\tpartition\t60\t\t0\t\t100\n" +
                               "/dev/sda2\tpartition\t10\t\t0\t\t-2\n");
  const auto memory = Procfs(tree.root()).memory_info();
  REQUIRE(memory.has_value());
  CHECK(memory->swap_free == ByteCount{70 * 1024});
  CHECK(memory->disk_swap_free == ByteCount{10 * 1024});
}
