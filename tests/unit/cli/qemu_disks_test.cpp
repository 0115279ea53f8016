// SPDX-License-Identifier: GPL-2.0-or-later
// The disks of a QEMU command line, as graphs of nodes.
#include "cli/qemu_disks.hpp"

#include <catch2/catch.hpp>

#include "cli/qemu_command.hpp"

using namespace ramfold::cli;

namespace {

// What is told of the disks of a VM that has nothing else to tell of.
std::string disks(std::vector<std::string> more) {
  std::vector<std::string> all{"qemu-system-x86_64", "-object", "memory-backend-memfd,id=r,size=1G",
                               "-machine", "memory-backend=r"};
  all.insert(all.end(), more.begin(), more.end());
  std::string told;
  for (const auto& reason : examine(all).reasons) told += reason.text + "\n";
  return told;
}
std::string direct(const std::string& file, const char* how = "cache.direct=on") {
  return "disk " + file + " is opened with O_DIRECT (" + how +
         "): writes of the device bypass the guard\n";
}

}  // namespace

TEST_CASE("cache.direct counts at any depth, once, with its file's name") {
  // As JSON: throttle over raw over a file, each place.
  CHECK(disks({"-blockdev",
               R"({"driver":"throttle","throttle-group":"g","file":{"driver":"raw","file":)"
               R"({"driver":"file","filename":"/img/a","cache":{"direct":true}}}})"}) ==
        direct("/img/a"));
  CHECK(disks({"-blockdev",
               R"({"driver":"throttle","throttle-group":"g","cache":{"direct":true},"file":)"
               R"({"driver":"raw","file":{"driver":"file","filename":"/img/a"}}})"}) ==
        direct("/img/a"));
  CHECK(disks({"-blockdev",
               R"({"driver":"raw","cache":{"direct":true},"file":{"driver":"luks","cache":)"
               R"({"direct":true},"file":{"driver":"host_device","filename":"/dev/vg/a",)"
               R"("cache":{"direct":true}}}})"}) == direct("/dev/vg/a"));
  // With dots; a filter that copies on read; a backing chain; a quorum.
  CHECK(disks({"-blockdev",
               "driver=copy-on-read,file.driver=qcow2,file.cache.direct=on,"
               "file.file.driver=file,file.file.filename=/img/a"}) == direct("/img/a"));
  CHECK(disks({"-blockdev",
               "driver=qcow2,file.driver=file,file.filename=/img/top,backing.driver=qcow2,"
               "backing.file.driver=file,backing.file.filename=/img/base,"
               "backing.file.cache.direct=on"}) == direct("/img/base"));
  CHECK(
      disks({"-blockdev", R"({"driver":"quorum","vote-threshold":1,"children":[)"
                          R"({"driver":"raw","file":{"driver":"file","filename":"/img/a"}},)"
                          R"({"driver":"raw","file":{"driver":"file","filename":"/img/b","cache":)"
                          R"({"direct":true}}}]})"}) == direct("/img/b"));
  CHECK(disks({"-drive",
               "driver=quorum,vote-threshold=1,children.0.file.filename=/img/a,"
               "children.1.file.filename=/img/b,children.1.file.cache.direct=yes"}) ==
        direct("/img/b"));
  CHECK(
      disks({"-drive", "if=none,driver=qcow2,cache=none,file.driver=file,file.filename=/img/a"}) ==
      direct("/img/a", "cache=none"));
  CHECK(disks({"-drive", R"(cache=none,file=json:{"driver":"qcow2",,"file":{"driver":"file",,)"
                         R"("filename":"/img/a"}})"}) == direct("/img/a", "cache=none"));
  CHECK(disks({"-blockdev", "driver=raw,file.driver=file,file.filename=/img/a,file.aio=native"}) ==
        direct("/img/a", "aio=native"));
  CHECK(disks({"-drive", "file=file:/img/a,cache=off"}) == direct("/img/a", "cache=off"));
}

TEST_CASE("a node says otherwise than the one above it") {
  CHECK(disks({"-blockdev",
               "driver=qcow2,cache.direct=on,file.driver=file,file.filename=/img/a,"
               "file.cache.direct=no"}) == "");
  CHECK(disks({"-blockdev",
               R"({"driver":"qcow2","cache":{"direct":true},"file":"node-that-is-buffered"})"}) ==
        "");
  CHECK(disks({"-drive", "file=/img/a,cache=writeback"}) == "");
}

TEST_CASE("a disk that is no file of the host is not opened with O_DIRECT") {
  for (const char* drive :
       {"file=nbd:10.0.0.1:10809", "file=nbd+unix:///d?socket=/run/nbd.sock", "file=rbd:pool/image",
        "file=iscsi://10.0.0.1/iqn.x/0", "file=https://example.org/a.iso", "file=ssh://host/a",
        "driver=null-co,size=1G", "file=null-co://",
        "driver=raw,file.driver=nbd,file.server.type=unix,file.server.path=/run/nbd.sock",
        "driver=raw,file.driver=rbd,file.pool=p,file.image=i", "if=ide,media=cdrom"}) {
    INFO(drive);
    CHECK(disks({"-drive", std::string(drive) + ",cache=none"}) == "");
    CHECK(disks({"-drive", std::string(drive) + ",cache.direct=on"}) == "");
  }
  CHECK(disks({"-blockdev",
               R"({"driver":"raw","cache":{"direct":true},"file":{"driver":"rbd","pool":"p",)"
               R"("image":"i","server":[{"host":"a","port":"1"}]}})"}) == "");
  CHECK(disks({"-blockdev", "driver=null-co,node-name=n,size=1G,cache.direct=on"}) == "");
  // A colon behind a slash is part of a file's name; so is any with the driver named.
  CHECK(disks({"-drive", "file=/img/nbd:1,cache=none"}) == direct("/img/nbd:1", "cache=none"));
  CHECK(disks({"-blockdev", "driver=file,filename=nbd:1,cache.direct=on"}) == direct("nbd:1"));
}

TEST_CASE("a driver that is another consumer is one at any depth") {
  CHECK(disks({"-blockdev", R"({"driver":"raw","node-name":"n","file":{"driver":"nvme","device":)"
                            R"("0000:01:00.0","namespace":1}})"})
            .find("disk 0000:01:00.0 is an NVMe controller") == 0);
  CHECK(disks({"-blockdev", "driver=throttle,throttle-group=g,file.driver=nvme,file.namespace=1"})
            .find("NVMe controller") != std::string::npos);
  CHECK(disks({"-drive", "file.driver=raw,file.file.filename=nvme://0000:01:00.0/1"})
            .find("NVMe controller") != std::string::npos);
  CHECK(disks({"-blockdev", "driver=virtio-blk-vfio-pci,path=/sys/x,node-name=n"}) ==
        "disk /sys/x writes to guest memory by itself (driver virtio-blk-vfio-pci)\n");
  CHECK(disks({"-blockdev", "driver=virtio-blk-vhost-user,path=/run/x,node-name=n"}) ==
        "disk /run/x (driver virtio-blk-vhost-user) gives guest RAM to another process\n");
}
