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

}  // namespace

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
  // A chain of backing files, a quorum, a graph in the name of a file.
  CHECK(disks({"-blockdev",
               "driver=qcow2,file.driver=file,file.filename=/img/top,backing.driver=qcow2,"
               "backing.file.driver=nvme,backing.file.device=0000:01:00.0"})
            .find("NVMe controller") != std::string::npos);
  CHECK(
      disks({"-blockdev", R"({"driver":"quorum","vote-threshold":1,"children":[)"
                          R"({"driver":"raw","file":{"driver":"file","filename":"/img/a"}},)"
                          R"({"driver":"raw","file":{"driver":"nvme","device":"0000:01:00.0"}}]})"})
          .find("NVMe controller") != std::string::npos);
  CHECK(disks({"-drive", R"(file=json:{"driver":"qcow2",,"file":{"driver":"nvme",,)"
                         R"("device":"0000:01:00.0"}})"})
            .find("NVMe controller") != std::string::npos);
  // A format over a file whose name has a protocol.
  for (const char* format : {"raw", "qcow2", "luks"}) {
    CHECK(disks({"-drive", std::string("driver=") + format + ",file=nvme://0000:01:00.0/1"}) ==
          "disk nvme://0000:01:00.0/1 is an NVMe controller driven through VFIO\n");
  }
  CHECK(disks({"-drive", "format=raw,file=nvme://0000:01:00.0/1"}).find("NVMe controller") !=
        std::string::npos);
  for (const char* option : {"-hda", "-hdb", "-hdc", "-hdd", "-cdrom", "-pflash", "-sd"}) {
    INFO(option);
    CHECK(disks({option, "nvme://0000:01:00.0/1"}) ==
          "disk nvme://0000:01:00.0/1 is an NVMe controller driven through VFIO\n");
  }
  CHECK(disks({"-hda", "/img/a,driver=nvme"}) == "");  // a file's name, commas and all
  // These drivers take it as a path.
  for (const char* driver : {"file", "host_device", "host_cdrom"}) {
    CHECK(disks({"-blockdev", std::string("driver=") + driver + ",node-name=n,filename=nvme:1"}) ==
          "");
  }
  // A colon behind a slash is part of a file's name.
  CHECK(disks({"-drive", "file=/img/nvme:1"}) == "");
}
