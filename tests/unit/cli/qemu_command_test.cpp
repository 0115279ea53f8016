// SPDX-License-Identifier: GPL-2.0-or-later
#include "cli/qemu_command.hpp"

#include <catch2/catch.hpp>

#include "cli/qemu_properties.hpp"

using namespace ramfold;
using namespace ramfold::cli;

namespace {

const std::vector<std::string> kGood{"/usr/bin/qemu-system-x86_64",
                                     "-name",
                                     "guest=web,debug-threads=on",
                                     "-m",
                                     "512",
                                     "-object",
                                     "memory-backend-memfd,id=ram0,size=512M,share=on",
                                     "-machine",
                                     "q35,memory-backend=ram0",
                                     "-drive",
                                     "file=/img/web.qcow2,if=virtio",
                                     "-uuid",
                                     "8d1b3a54-6c2e-4f0a-9b7d-0c5e2f1a3b4c"};

std::vector<std::string> with(std::vector<std::string> more) {
  std::vector<std::string> all = kGood;
  all.insert(all.end(), more.begin(), more.end());
  return all;
}
std::string codes(const std::vector<std::string>& arguments) {
  std::string text;
  for (const auto& reason : examine(arguments).reasons) {
    CHECK_FALSE(reason.text.empty());
    CHECK_FALSE(reason.remedy.empty());
    text += (text.empty() ? "" : " ") + reason.code;
  }
  return text;
}

}  // namespace

TEST_CASE("the emulator is known by its name") {
  CHECK(is_qemu("/usr/bin/qemu-system-x86_64"));
  CHECK(is_qemu("qemu-kvm"));
  CHECK(is_qemu("/usr/libexec/kvm"));
  CHECK_FALSE(is_qemu("/usr/bin/qemu-img"));
  CHECK_FALSE(is_qemu("/opt/qemu-system-x86_64/run"));
}

TEST_CASE("a foldable command line has no reason against it") {
  const QemuAdvice advice = examine(kGood);
  CHECK(advice.name == "web");
  CHECK(advice.uuid == "8d1b3a54-6c2e-4f0a-9b7d-0c5e2f1a3b4c");
  CHECK(advice.ram == ByteCount{512ull << 20});
  CHECK(advice.reasons.empty());
  CHECK_FALSE(advice.probing);
  CHECK(codes(with({"-netdev", "tap,id=n,vhost=on", "-device", "virtio-balloon-pci", "-cdrom",
                    "x.iso", "-drive", "file=a,,b.img,cache=unsafe", "-object",
                    "rng-random,id=r,filename=/dev/urandom"})) == "");
}

TEST_CASE("libvirt's JSON form is read like the other") {
  CHECK(codes({"qemu-system-x86_64", "-name", "guest=web", "-object",
               R"({"qom-type":"memory-backend-memfd","id":"pc.ram","share":true,"size":536870912})",
               "-machine", "pc-q35-7.2,usb=off,memory-backend=pc.ram", "-blockdev",
               R"({"driver":"file","filename":"/img/a","node-name":"s","cache":{"direct":false}})",
               "-blockdev",
               R"({"node-name":"f","driver":"qcow2","file":"s","cache":{"direct":false}})",
               "-device", R"({"driver":"virtio-blk-pci","drive":"f","id":"d"})"}) == "");
  CHECK(
      codes({"qemu-system-x86_64", "-object",
             R"({"qom-type":"memory-backend-memfd","id":"pc.ram","share":false,"hugetlb":true})",
             "-machine", "q35,memory-backend=pc.ram", "-blockdev",
             R"({"driver":"host_device","filename":"/dev/vg/a","node-name":"s",)"
             R"("cache":{"direct":true,"no-flush":false}})",
             "-blockdev", R"({"node-name":"f","driver":"raw","file":"s","cache":{"direct":true}})",
             "-device", R"({"driver":"vfio-pci","host":"0000:01:00.0"})"}) ==
      "ram_layout hugetlb direct_io other_consumer");
  CHECK(examine(std::vector<std::string>{
                    "qemu-system-x86_64", "-object",
                    R"({"qom-type":"memory-backend-memfd","id":"r","size":1073741824})", "-numa",
                    "node,memdev=r"})
            .ram == ByteCount{1ull << 30});
}

TEST_CASE("each thing that stands against folding has its reason") {
  struct Case {
    std::vector<std::string> more;
    const char* codes;
  };
  const Case cases[] = {
      {{"-drive", "file=x,cache=none"}, "direct_io"},
      {{"-drive", "file=x,cache=directsync"}, "direct_io"},
      {{"-drive", "file=x,cache.direct=on"}, "direct_io"},
      {{"-drive", "file=x,aio=native,cache=none"}, "direct_io"},
      {{"-blockdev", "driver=file,filename=x,node-name=n,cache.direct=on"}, "direct_io"},
      {{"-blockdev", "qcow2,file.driver=file,file.filename=x,file.cache.direct=on"}, "direct_io"},
      {{"-drive", "file=nvme://0000:01:00.0/1"}, "other_consumer"},
      {{"-blockdev", "driver=nvme,device=0000:01:00.0,namespace=1"}, "other_consumer"},
      {{"-device", "vfio-pci,host=01:00.0"}, "other_consumer"},
      {{"-netdev", "vhost-vdpa,vhostdev=/dev/vhost-vdpa-0,id=n"}, "other_consumer"},
      {{"-device", "vhost-scsi-pci,wwpn=naa.1"}, "other_consumer"},
      {{"-device", "virtio-gpu-gl,blob=on"}, "other_consumer"},
      {{"-netdev", "vhost-user,chardev=c,id=n"}, "ram_fd_elsewhere"},
      {{"-device", "vhost-user-fs-pci,chardev=c,tag=t"}, "ram_fd_elsewhere"},
      {{"-device", "scsi-generic,drive=d"}, "sg_io"},
      {{"-overcommit", "mem-lock=on"}, "locked_memory"},
      {{"-realtime", "mlock=on"}, "locked_memory"},
      {{"-machine", "q35,confidential-guest-support=sev0"}, "confidential_guest"},
      {{"-object", "sev-guest,id=sev0"}, "confidential_guest"},
      {{"-incoming", "defer"}, "incoming_migration"},
      {{"--drive", "file=x,cache=none", "-drive", "file=x,cache=none"}, "direct_io"},
  };
  for (const Case& c : cases) {
    INFO(c.more[0] << " " << c.more[1]);
    CHECK(codes(with(c.more)) == c.codes);
  }
}

TEST_CASE("RAM that is not a shared memfd is a reason") {
  CHECK(codes({"qemu-system-x86_64", "-m", "1G"}) == "ram_layout");
  CHECK(codes({"qemu-system-x86_64", "-m", "1G", "-mem-path", "/dev/shm"}) == "ram_layout");
  CHECK(codes({"qemu-system-x86_64", "-object", "memory-backend-ram,id=r,size=1G", "-machine",
               "memory-backend=r"}) == "ram_layout");
  CHECK(codes({"qemu-system-x86_64", "-object", "memory-backend-memfd,id=r,size=1G,share=off",
               "-machine", "memory-backend=r"}) == "ram_layout");
  // Made, but not the machine's RAM.
  CHECK(codes({"qemu-system-x86_64", "-object", "memory-backend-memfd,id=r,size=1G"}) ==
        "ram_layout");
}

TEST_CASE("sizes of RAM in every form") {
  const auto ram = [](std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), "qemu-system-x86_64");
    return examine(arguments).ram;
  };
  CHECK(ram({"-m", "512"}) == ByteCount{512ull << 20});
  CHECK(ram({"-m", "2G"}) == ByteCount{2ull << 30});
  CHECK(ram({"-m", "size=1024k,slots=2"}) == ByteCount{1ull << 20});
  CHECK(ram({"-m", "lots"}) == ByteCount{0});
}

TEST_CASE("a probe of the emulator is no VM") {
  for (const std::vector<std::string>& arguments :
       {std::vector<std::string>{"qemu-system-x86_64", "-machine", "none", "-qmp", "stdio"},
        {"qemu-system-x86_64", "--version"},
        {"qemu-system-x86_64", "-device", "help"},
        {"qemu-system-x86_64", "-M", "?"}}) {
    CHECK(examine(arguments).probing);
  }
}

TEST_CASE("odd command lines are survived") {
  for (const char* text :
       {"", ",", ",,", "=", "=,=", "{", "{}", "{\"a\":[1,{\"b\":2}]}", "a=b=c", "nothing", "no"}) {
    examine(std::vector<std::string>{"qemu-system-x86_64", "-object", text, "-drive", text, "-m",
                                     text});
  }
  CHECK(examine(std::vector<std::string>{}).reasons.size() == 1);
  CHECK(examine(std::vector<std::string>{"qemu-system-x86_64", "-drive"}).reasons.size() == 1);
  std::string deep;
  for (int i = 0; i < 100'000; ++i) deep += "{\"a\":";
  parse_properties(deep, "");
  deep += "1" + std::string(100'000, '}');
  CHECK(parse_properties(deep, "").empty());
}

TEST_CASE("properties: implied key, doubled commas, switches") {
  const Properties p = parse_properties("file,a=1,,2,b,noc,d=", "driver");
  CHECK(value_of(p, "driver") == "file");
  CHECK(value_of(p, "a") == "1,2");
  CHECK(is_on(p, "b"));
  CHECK(value_of(p, "c") == "off");
  CHECK(p.contains("d"));
  CHECK(parse_properties(R"({"a":{"b":{"c":true}},"n":5})", "").at("a.b.c") == "on");
}
