// SPDX-License-Identifier: GPL-2.0-or-later
// RAM in files: raw, ELF cores of both sizes, and what is none.
#include "estimate/ram_dump.hpp"

#include <elf.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstring>
#include <fstream>

#include "../temp_dir.hpp"
#include "pages.hpp"

using namespace ramfold;
using namespace ramfold::estimate;
using test::noise;

namespace {

std::string bytes_of(const PageCopy& page) {
  return {reinterpret_cast<const char*>(page.bytes.data()), kPageSize};
}
template <typename T>
void put(std::string& text, std::size_t at, const T& value) {
  if (text.size() < at + sizeof value) text.resize(at + sizeof value);
  std::memcpy(text.data() + at, &value, sizeof value);
}

struct File {
  explicit File(const std::string& content) { std::ofstream(path, std::ios::binary) << content; }
  TempDir dir;
  std::string path = dir / "ram";
};

struct Seen {
  std::uint64_t place;
  PageCopy page;
};
std::vector<Seen> all_of(RamDump& dump) {
  std::vector<Seen> seen;
  REQUIRE(dump.each([&](PageIndex place, const PageCopy& page) {
    seen.push_back({place.value, page});
    return true;
  }));
  return seen;
}
bool same(const PageCopy& a, const PageCopy& b) { return a.bytes == b.bytes; }

std::string error_of(const std::string& content) {
  const File file(content);
  const auto dump = RamDump::open(file.path);
  REQUIRE_FALSE(dump);
  CHECK(dump.error().text().starts_with(file.path));
  return dump.error().text();
}

struct Part {
  std::uint32_t type;
  std::size_t offset;
  std::size_t size;
};
// An ELF core file with these segments; nothing behind its headers.
template <typename Header, typename Segment>
std::string core_with(unsigned char elf_class, const std::vector<Part>& parts) {
  Header header{};
  std::memcpy(header.e_ident, ELFMAG, SELFMAG);
  header.e_ident[EI_CLASS] = elf_class;
  header.e_ident[EI_DATA] = ELFDATA2LSB;
  header.e_type = ET_CORE;
  header.e_phoff = sizeof header;
  header.e_phnum = static_cast<std::uint16_t>(parts.size());
  header.e_phentsize = sizeof(Segment);
  std::string file;
  put(file, 0, header);
  for (const Part& part : parts) {
    Segment one{};
    one.p_type = part.type;
    one.p_offset = static_cast<decltype(one.p_offset)>(part.offset);
    one.p_filesz = static_cast<decltype(one.p_filesz)>(part.size);
    put(file, file.size(), one);
  }
  return file;
}

constexpr std::size_t kData = 1000;
// Notes, then two segments of which neither begins at a page's edge of the file.
template <typename Header, typename Segment>
std::string core(unsigned char elf_class) {
  std::string file =
      core_with<Header, Segment>(elf_class, {{PT_NOTE, 400, 600},
                                             {PT_LOAD, kData, 2 * kPageSize},
                                             {PT_LOAD, kData + 2 * kPageSize + 8, kPageSize}});
  file.resize(kData);
  file += bytes_of(noise(1)) + bytes_of(noise(2)) + "8 bytes." + bytes_of(noise(3));
  return file;
}

// Four pages behind the headers, and segments given as (first page, pages) of them.
using Mapped = std::vector<std::pair<std::size_t, std::size_t>>;
template <typename Header, typename Segment>
std::string paged_core(unsigned char elf_class, const Mapped& mapped) {
  std::vector<Part> parts;
  for (const auto& [first, pages] : mapped) {
    parts.push_back({PT_LOAD, kData + first * kPageSize, pages * kPageSize});
  }
  std::string file = core_with<Header, Segment>(elf_class, parts);
  file.resize(kData);
  for (std::uint32_t i = 0; i < 4; ++i) file += bytes_of(noise(i));
  return file;
}

std::vector<DumpSegment> segments_in(const std::string& content) {
  const auto found = segments_of(
      [&](std::uint64_t offset, std::span<std::byte> into) {
        if (offset > content.size() || content.size() - offset < into.size()) return false;
        std::memcpy(into.data(), content.data() + offset, into.size());
        return true;
      },
      ByteCount{content.size()});
  REQUIRE(found);
  return *found;
}

}  // namespace

TEST_CASE("a raw file is RAM from its first byte; what is left of a page at its end is not") {
  const File file(bytes_of(noise(1)) + bytes_of(noise(2)) + "rest");
  const auto dump = RamDump::open(file.path);
  REQUIRE(dump);
  CHECK((*dump)->size() == PageCount{2});
  const auto seen = all_of(**dump);
  REQUIRE(seen.size() == 2);
  CHECK(same(seen[1].page, noise(2)));
  PageCopy again;
  CHECK((*dump)->read(PageIndex{0}, again));
  CHECK(same(again, noise(1)));
  CHECK_FALSE((*dump)->read(PageIndex{2}, again));
}

TEST_CASE("a hole of the file was never touched") {
  const File file("");
  constexpr std::uint64_t kPages = 1024;
  REQUIRE(::truncate(file.path.c_str(), kPages * kPageSize) == 0);
  {
    std::fstream out(file.path, std::ios::in | std::ios::out | std::ios::binary);
    out.seekp(700 * kPageSize);
    out << bytes_of(noise(7));
  }
  const auto dump = RamDump::open(file.path);
  REQUIRE(dump);
  CHECK((*dump)->size() == PageCount{kPages});
  CHECK((*dump)->present().value < 100);  // a file system's blocks may be larger than a page
  bool found = false;
  for (const Seen& seen : all_of(**dump)) {
    if (seen.place == 700) found = same(seen.page, noise(7));
  }
  CHECK(found);
}

TEST_CASE("the loadable segments of an ELF core are the RAM") {
  const std::string file64 = core<Elf64_Ehdr, Elf64_Phdr>(ELFCLASS64);
  const std::string file32 = core<Elf32_Ehdr, Elf32_Phdr>(ELFCLASS32);
  for (const std::string& content : {file64, file32}) {
    const File file(content);
    const auto dump = RamDump::open(file.path);
    REQUIRE(dump);
    CHECK((*dump)->size() == PageCount{3});
    const auto seen = all_of(**dump);
    REQUIRE(seen.size() == 3);
    for (std::uint32_t i = 0; i < 3; ++i) {
      CHECK(seen[i].place == i);
      CHECK(same(seen[i].page, noise(i + 1)));
    }
    PageCopy again;
    CHECK((*dump)->read(PageIndex{2}, again));
    CHECK(same(again, noise(3)));
  }
}

TEST_CASE("a page that many segments name, as with paging=true, is there once") {
  const Mapped cases[] = {
      {{0, 4}, {0, 4}},                  // the same range twice
      {{0, 3}, {1, 3}},                  // in part
      {{0, 4}, {1, 2}, {1, 1}},          // nested
      {{3, 1}, {2, 2}, {1, 3}, {0, 4}},  // in reverse order
      {{2, 2}, {0, 1}, {0, 2}, {3, 1}},
  };
  for (const Mapped& mapped : cases) {
    for (const std::string& content : {paged_core<Elf64_Ehdr, Elf64_Phdr>(ELFCLASS64, mapped),
                                       paged_core<Elf32_Ehdr, Elf32_Phdr>(ELFCLASS32, mapped)}) {
      const File file(content);
      const auto dump = RamDump::open(file.path);
      REQUIRE(dump);
      CHECK((*dump)->size() == PageCount{4});
      const auto seen = all_of(**dump);
      REQUIRE(seen.size() == 4);
      for (std::uint32_t i = 0; i < 4; ++i) CHECK(same(seen[i].page, noise(i)));
    }
  }
}

TEST_CASE("segments that lie apart stay apart, and are read in the order of the file") {
  const Mapped mapped{{3, 1}, {0, 1}, {3, 1}};
  const std::string content = paged_core<Elf64_Ehdr, Elf64_Phdr>(ELFCLASS64, mapped);
  CHECK(segments_in(content) ==
        std::vector<DumpSegment>{{kData, PageCount{1}}, {kData + 3 * kPageSize, PageCount{1}}});
  const File file(content);
  const auto dump = RamDump::open(file.path);
  REQUIRE(dump);
  const auto seen = all_of(**dump);
  REQUIRE(seen.size() == 2);
  CHECK(same(seen[0].page, noise(0)));
  CHECK(same(seen[1].page, noise(3)));
  PageCopy again;
  CHECK((*dump)->read(PageIndex{1}, again));
  CHECK(same(again, noise(3)));
}

TEST_CASE("ranges whose pages begin at different places share no byte") {
  std::string content = core_with<Elf64_Ehdr, Elf64_Phdr>(
      ELFCLASS64, {{PT_LOAD, kData, 2 * kPageSize}, {PT_LOAD, kData + 100, 3 * kPageSize}});
  content.resize(kData + 4 * kPageSize);
  // The second one's own pages begin 100 bytes later; its first two are touched by the first range.
  CHECK(
      segments_in(content) ==
      std::vector<DumpSegment>{{kData, PageCount{2}}, {kData + 100 + 2 * kPageSize, PageCount{1}}});
}

TEST_CASE("more segments than 16 bits can count: a guest's process in single pages") {
  constexpr std::uint32_t kMapped = 100'000;
  Elf64_Ehdr header{};
  std::memcpy(header.e_ident, ELFMAG, SELFMAG);
  header.e_ident[EI_CLASS] = ELFCLASS64;
  header.e_ident[EI_DATA] = ELFDATA2LSB;
  header.e_type = ET_CORE;
  header.e_phnum = PN_XNUM;
  header.e_shoff = sizeof header;
  Elf64_Shdr first{};
  first.sh_info = kMapped;
  header.e_phoff = sizeof header + sizeof first;
  std::string content;
  const std::size_t data = header.e_phoff + kMapped * sizeof(Elf64_Phdr);
  content.resize(data + 4 * kPageSize);
  put(content, 0, header);
  put(content, sizeof header, first);
  for (std::uint32_t i = 0; i < kMapped; ++i) {
    Elf64_Phdr one{};
    one.p_type = PT_LOAD;
    one.p_offset = data + (i % 4) * kPageSize;
    one.p_filesz = kPageSize;
    put(content, header.e_phoff + i * sizeof one, one);
  }
  CHECK(segments_in(content) == std::vector<DumpSegment>{{data, PageCount{4}}});
}

TEST_CASE("the core file of a process is no guest's RAM") {
  std::string content = core_with<Elf64_Ehdr, Elf64_Phdr>(
      ELFCLASS64, {{PT_NOTE, 400, 64}, {PT_LOAD, kData, kPageSize}});
  content.resize(kData + kPageSize);
  put(content, 400, Elf64_Nhdr{5, 4, NT_PRSTATUS});  // "CORE", padded, and 4 bytes
  CHECK(segments_in(content).size() == 1);
  put(content, 424, Elf64_Nhdr{5, 16, NT_AUXV});
  CHECK(error_of(content).find("of a process") != std::string::npos);
}

TEST_CASE("a file that is known to be no RAM says what it is") {
  struct Case {
    std::string begins;
    const char* what;
  };
  using namespace std::string_literals;
  const std::string header(510, '\0');
  const Case cases[] = {
      {"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03"s, "gzip compressed data"},
      {"\xfd\x37zXZ\x00\x00\x04"s, "XZ compressed data"},
      {"\x28\xb5\x2f\xfd\x04\x88"s, "Zstandard compressed data"},
      {"\x89LZO\x00\x0d\x0a\x1a\x0a\x10\x40\x20\xa0\x09\x40\x03"s, "lzop compressed data"},
      {"BZh91AY&SY"s, "bzip2 compressed data"},
      {"\x04\x22\x4d\x18\x64\x40\xa7"s, "LZ4 compressed data"},
      {"QFI\xfb\x00\x00\x00\x03"s, "QEMU QCOW"},
      {"KDMV\x01\x00\x00\x00"s, "VMware4 disk image"},
      {header.substr(0, 510) + "\x55\xaa"s, "boot sector"},
      {"%PDF-1.7\n"s, "PDF document"},
      {"LUKS\xba\xbe\x00\x02"s, "LUKS"},
      {"PK\x03\x04\x14\x00\x00\x00\x08\x00"s, "Zip archive"},
  };
  for (const Case& c : cases) {
    INFO(c.what);
    std::string content = c.begins + header + bytes_of(noise(1)) + bytes_of(noise(2));
    if (c.begins.starts_with("LUKS")) content = c.begins + std::string(4096, '\0');
    const std::string error = error_of(content);
    CHECK(error.find("not RAM: ") != std::string::npos);
    CHECK(error.find(c.what) != std::string::npos);
    CHECK(error.find('\n') == std::string::npos);
    // Who knows better can say so.
    const File file(content);
    const auto raw = RamDump::open(file.path, TakenAs::raw);
    REQUIRE(raw);
    CHECK((*raw)->size() == PageCount{content.size() / kPageSize});
  }
  CHECK(error_of(std::string(9000, 'a')).find("ASCII text") != std::string::npos);
  CHECK(error_of("EMiL" + std::string(9000, '\0')).find("LiME") != std::string::npos);
  CHECK(error_of("\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03"s).find("gzip") != std::string::npos);
}

TEST_CASE("RAM is taken for RAM, whatever lies in its first page") {
  std::string interrupts;  // as SeaBIOS leaves it
  for (int i = 0; i < 1024; ++i) interrupts += std::string("\x53\xff\x00\xf0", 4);
  for (const std::string& content :
       {interrupts, std::string(8192, '\0'), bytes_of(noise(1)) + bytes_of(noise(2)),
        std::string(4096, '\0') + interrupts}) {
    const File file(content);
    CHECK(RamDump::open(file.path));
  }
}

TEST_CASE("what is no dump says what to do") {
  const std::string good = core<Elf64_Ehdr, Elf64_Phdr>(ELFCLASS64);
  CHECK(error_of(good.substr(0, good.size() - 1)).find("cut short") != std::string::npos);
  CHECK(error_of(good.substr(0, 40)).find("dump it again") != std::string::npos);
  CHECK(error_of(good.substr(0, 100)).find("dump it again") != std::string::npos);
  std::string program = good;
  put(program, offsetof(Elf64_Ehdr, e_type), std::uint16_t{ET_EXEC});
  CHECK(error_of(program).find("not a dump") != std::string::npos);
  std::string many = good;
  put(many, offsetof(Elf64_Ehdr, e_phnum), std::uint16_t{60'000});
  CHECK(error_of(many).find("cannot be found") != std::string::npos);
  Elf64_Shdr first{};
  first.sh_info = 1u << 21;
  put(many, offsetof(Elf64_Ehdr, e_phnum), std::uint16_t{PN_XNUM});
  put(many, offsetof(Elf64_Ehdr, e_shoff), std::uint64_t{300});
  put(many, 300, first);
  CHECK(error_of(many).find("too many") != std::string::npos);
  CHECK(error_of("KDUMP   " + good).find("without compression") != std::string::npos);
  CHECK(error_of("LibvirtQemudSave" + good).find("dump-guest-memory") != std::string::npos);
  CHECK(error_of("short").find("no whole page") != std::string::npos);
  CHECK(error_of("").find("no whole page") != std::string::npos);
  CHECK_FALSE(RamDump::open("/proc/self"));
  CHECK(RamDump::open("/proc/self/no-such-file").error().code == ENOENT);
}
