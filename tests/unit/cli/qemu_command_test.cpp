// SPDX-License-Identifier: GPL-2.0-or-later
#include "cli/qemu_command.hpp"

#include <catch2/catch.hpp>

#include "cli/qemu_config.hpp"
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

TEST_CASE("D2: disks are no reason, whatever they are opened with") {
  const std::vector<std::string> disks[] = {
      {"-drive", "file=x,cache=none"},
      {"-drive", "file=x,cache=directsync"},
      {"-drive", "file=x,cache.direct=on"},
      {"-drive", "file=x,aio=native,cache=none"},
      {"-blockdev", "driver=file,filename=x,node-name=n,cache.direct=on"},
      {"-blockdev", "driver=nvme-io_uring,path=/dev/ng0n1,node-name=n"},
      {"-device", "scsi-generic,drive=d"},
      {"-device", "scsi-block,drive=d"},
      {"-device", "vhost-scsi-pci,wwpn=naa.1"},
  };
  for (const auto& disk : disks) {
    INFO(disk[1]);
    CHECK(codes(with(disk)) == "");
  }
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
      "ram_layout hugetlb other_consumer");
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
      {{"-drive", "file=nvme://0000:01:00.0/1"}, "other_consumer"},
      {{"-blockdev", "driver=nvme,device=0000:01:00.0,namespace=1"}, "other_consumer"},
      {{"-device", "vfio-pci,host=01:00.0"}, "other_consumer"},
      {{"-netdev", "vhost-vdpa,vhostdev=/dev/vhost-vdpa-0,id=n"}, "other_consumer"},
      {{"-device", "virtio-gpu-gl,blob=on"}, "other_consumer"},
      {{"-netdev", "vhost-user,chardev=c,id=n"}, "ram_fd_elsewhere"},
      {{"-device", "vhost-user-fs-pci,chardev=c,tag=t"}, "ram_fd_elsewhere"},
      {{"-overcommit", "mem-lock=on"}, "locked_memory"},
      {{"-realtime", "mlock=on"}, "locked_memory"},
      {{"-machine", "q35,confidential-guest-support=sev0"}, "confidential_guest"},
      {{"-object", "sev-guest,id=sev0"}, "confidential_guest"},
      {{"-incoming", "defer"}, "incoming_migration"},
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
  CHECK(ram({"-m", "64M", "-m", "slots=2,maxmem=1G", "-m", "96M"}) == ByteCount{96ull << 20});
  CHECK(ram({"-machine", "q35,memory.size=1G"}) == ByteCount{1ull << 30});
  CHECK(ram({}) == ByteCount{128ull << 20});  // QEMU's own
  CHECK(ram({"-m", "lots"}) == ByteCount{128ull << 20});
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

namespace {

QemuAdvice advice_with(std::vector<std::string> more) { return examine(with(std::move(more))); }
std::string texts(const QemuAdvice& advice) {
  std::string all;
  for (const auto& reason : advice.reasons) all += reason.text + "\n";
  return all;
}
}  // namespace

TEST_CASE("memory devices are RAM: size, type and large pages") {
  const auto look = [](std::vector<std::string> more) {
    more.insert(more.begin(), {"qemu-system-x86_64", "-m", "64M,slots=4,maxmem=1G"});
    return examine(more);
  };
  const QemuAdvice dimm =
      look({"-object", "memory-backend-ram,id=m1,size=128M", "-device", "pc-dimm,id=d1,memdev=m1"});
  CHECK(dimm.ram == ByteCount{192ull << 20});
  CHECK(texts(dimm) == "RAM is not a memory-backend-memfd\nRAM 'm1' is a memory-backend-ram\n");
  CHECK(dimm.reasons[1].remedy.find("memory device's backend") != std::string::npos);
  const QemuAdvice virtio =
      look({"-object",
            R"({"qom-type":"memory-backend-memfd","id":"m1","size":268435456,)"
            R"("hugetlb":true})",
            "-device", R"({"driver":"virtio-mem-pci","memdev":"m1","requested-size":0})"});
  CHECK(virtio.ram == ByteCount{320ull << 20});
  CHECK(texts(virtio).find("RAM 'm1' uses hugetlbfs") != std::string::npos);
}

TEST_CASE("ivshmem and nvdimm are no RAM") {
  const QemuAdvice advice = examine(std::vector<std::string>{
      "qemu-system-x86_64", "-m", "512M", "-object", "memory-backend-memfd,id=r,size=512M",
      "-machine", "q35,memory-backend=r,nvdimm=on", "-object",
      "memory-backend-file,id=s,size=1G,share=on,mem-path=/dev/shm/s", "-device",
      "ivshmem-plain,memdev=s", "-object",
      "memory-backend-file,id=n,size=0x40000000,share=on,mem-path=/nv.img", "-device",
      "nvdimm,memdev=n"});
  CHECK(advice.reasons.empty());
  CHECK(advice.ram == ByteCount{512ull << 20});
  using estimate::Backing;
  using estimate::MemoryBlock;
  CHECK(advice.blocks ==
        std::vector<MemoryBlock>{{ByteCount{512ull << 20}, Backing::memfd, "", true},
                                 {ByteCount{1ull << 30}, Backing::file, "/dev/shm/s", false},
                                 {ByteCount{1ull << 30}, Backing::file, "/nv.img", false}});
}

TEST_CASE("each word that QEMU takes for no, and for yes") {
  for (const char* no : {"off", "no", "false", "n"}) {
    INFO(no);
    const std::string word(no);
    CHECK(codes({"qemu-system-x86_64", "-object", "memory-backend-memfd,id=r,size=1G,share=" + word,
                 "-machine", "memory-backend=r"}) == "ram_layout");
    CHECK(codes(with({"-overcommit", "mem-lock=" + word})) == "");
    CHECK(codes(with({"-realtime", "mlock=" + word})) == "");
    CHECK(codes(with({"-device", "virtio-gpu-gl,blob=" + word})) == "");
  }
  for (const char* yes : {"on", "yes", "true", "y"}) {
    INFO(yes);
    const std::string word(yes);
    CHECK(codes({"qemu-system-x86_64", "-object",
                 "memory-backend-memfd,id=r,size=1G,hugetlb=" + word + ",share=" + word, "-machine",
                 "memory-backend=r"}) == "hugetlb");
    CHECK(codes(with({"-overcommit", "mem-lock=" + word})) == "locked_memory");
    CHECK(codes(with({"-device", "virtio-gpu-gl,blob=" + word})) == "other_consumer");
  }
  CHECK(codes(with({"-overcommit", "mem-lock=on-fault"})) == "locked_memory");
}

TEST_CASE("emulators as distributions name them") {
  for (const char* name :
       {"/usr/bin/qemu-system-x86_64", "kvm", "/usr/bin/kvm-spice", "/usr/libexec/qemu-kvm",
        "qemu-lite-system-x86_64", "/nix/store/x/bin/.qemu-system-x86_64-wrapped",
        ".qemu-kvm-wrapped_", "/usr/bin/qemu-system-x86_64.real", "qemu-system-i386.distrib",
        "qemu-system-x86_64-spice", "/usr/bin/qemu-system-x86_64 (deleted)"}) {
    INFO(name);
    CHECK(is_qemu(name));
  }
  for (const char* name : {"qemu-img", "qemu-nbd", "qemu-x86_64", "qemu-ga", "bash", "", "/",
                           "kvmtool", "xqemu-system-x86_64", "virtqemud"}) {
    INFO(name);
    CHECK_FALSE(is_qemu(name));
  }
}

TEST_CASE("a VM may be named help, and its kernel may be told anything") {
  for (const std::vector<std::string>& more : {std::vector<std::string>{"-name", "help"},
                                               {"-name", "guest=help,debug-threads=on"},
                                               {"-drive", "file=help"},
                                               {"-append", "--help"},
                                               {"-append", "-version"},
                                               {"-device", "virtio-net-pci,id=help"},
                                               {"-smbios", "type=1,product=help"},
                                               {"-fw_cfg", "name=opt/x,string=?"}}) {
    INFO(more[0] << " " << more[1]);
    const QemuAdvice advice = advice_with(more);
    CHECK_FALSE(advice.probing);
    CHECK(advice.reasons.empty());
  }
  CHECK(advice_with({"-name", "guest=help"}).name == "help");
  for (const std::vector<std::string>& more : {std::vector<std::string>{"-device", "e1000,help"},
                                               {"-netdev", "?"},
                                               {"-cpu", "help"},
                                               {"--help"},
                                               {"-drive", "format=help"}}) {
    INFO(more[0]);
    CHECK(advice_with(more).probing);
  }
}

TEST_CASE("-incoming names what to say when the migration has ended") {
  const QemuAdvice advice = advice_with({"-incoming", "defer"});
  REQUIRE(advice.reasons.size() == 1);
  CHECK(advice.reasons[0].remedy.find("attach VM --incoming-finished") != std::string::npos);
}

TEST_CASE("a -readconfig file is part of the command line") {
  const std::string incus = R"(# Machine
[machine]
graphics = "off"
type = "q35"

[boot-opts]
strict = "on"

# Memory
[memory]
  size = "1024M"
[object "mem0"]
qom-type = "memory-backend-memfd"
size = "1G"
share = "on"
[numa]
type = "node"
memdev = "mem0"
[drive]
file = "/usr/share/OVMF/OVMF_CODE.fd"
if = "pflash"
[device "dev-x"]
driver = "vfio-pci"
host = ""
)";
  const auto read = [&](const std::string& path) -> Result<std::string> {
    if (path == "/run/incus.conf") return incus;
    if (path == "bad") return std::string("[machine]\ntype q35\n");
    return fail("not found", ENOENT);
  };
  const auto look = [&](std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), "qemu-system-x86_64");
    return examine(arguments, read);
  };
  const QemuAdvice advice = look({"-name", "c1", "-readconfig", "/run/incus.conf"});
  CHECK(texts(advice) == "device vfio-pci writes to guest memory by itself\n");
  CHECK(advice.ram == ByteCount{1ull << 30});
  CHECK(advice.unread.empty());
  // Options of both kinds, as Proxmox has them.
  CHECK(texts(look({"-readconfig", "/run/incus.conf", "-drive", "file=nvme://0000:01:00.0/1"}))
            .find("disk nvme://0000:01:00.0/1") != std::string::npos);
  // What cannot be read is said, and nothing of RAM.
  for (const std::string path : {"/gone", "bad"}) {
    const QemuAdvice unread = look({"-readconfig", path, "-overcommit", "mem-lock=on"});
    REQUIRE(unread.unread.size() == 1);
    CHECK(unread.unread[0].starts_with(path + ": "));
    CHECK(unread.ram == ByteCount{0});
    CHECK(unread.blocks.empty());
    CHECK(texts(unread) == "RAM is locked into memory\n");
  }
  CHECK(look({"-readconfig", "bad"}).unread[0].find("line 2") != std::string::npos);
}

TEST_CASE("what a -readconfig file may look like") {
  const auto groups = parse_qemu_config(
      "[a \"x y\"]\n  k = \"v\"\n\tempty=\"\"\r\n#c\n\n[b]\nk = \"1\" trailing\n");
  REQUIRE(groups);
  REQUIRE(groups->size() == 2);
  CHECK(groups->at(0).name == "a");
  CHECK(groups->at(0).properties == Properties{{"id", "x y"}, {"k", "v"}, {"empty", ""}});
  CHECK(groups->at(1).properties == Properties{{"k", "1"}});
  for (const char* bad : {"k = \"v\"\n", "[a\n", "[]\n", "[a b]\n", "[a]\nk = v\n", "[a]\nk\n",
                          "[a]\n= \"v\"\n", "[a]\nk = \"v\n"}) {
    INFO(bad);
    CHECK_FALSE(parse_qemu_config(bad));
  }
}
