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

// Notes, then two segments of which neither begins at a page's edge of the file.
template <typename Header, typename Segment>
std::string core(unsigned char elf_class) {
  Header header{};
  std::memcpy(header.e_ident, ELFMAG, SELFMAG);
  header.e_ident[EI_CLASS] = elf_class;
  header.e_ident[EI_DATA] = ELFDATA2LSB;
  header.e_type = ET_CORE;
  header.e_phoff = sizeof header;
  header.e_phnum = 3;
  header.e_phentsize = sizeof(Segment);
  std::string file;
  put(file, 0, header);
  const std::size_t data = 1000;
  const auto segment = [&](std::size_t number, auto type, std::size_t offset, std::size_t size) {
    Segment one{};
    one.p_type = type;
    one.p_offset = static_cast<decltype(one.p_offset)>(offset);
    one.p_filesz = static_cast<decltype(one.p_filesz)>(size);
    put(file, sizeof header + number * sizeof one, one);
  };
  segment(0, PT_NOTE, 400, 600);
  segment(1, PT_LOAD, data, 2 * kPageSize);
  segment(2, PT_LOAD, data + 2 * kPageSize + 8, kPageSize);
  file.resize(data);
  file += bytes_of(noise(1)) + bytes_of(noise(2)) + "8 bytes." + bytes_of(noise(3));
  return file;
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
  CHECK(error_of(many).find("too many") != std::string::npos);
  CHECK(error_of("KDUMP   " + good).find("without compression") != std::string::npos);
  CHECK(error_of("LibvirtQemudSave" + good).find("dump-guest-memory") != std::string::npos);
  CHECK(error_of("short").find("no whole page") != std::string::npos);
  CHECK(error_of("").find("no whole page") != std::string::npos);
  CHECK_FALSE(RamDump::open("/proc/self"));
  CHECK(RamDump::open("/proc/self/no-such-file").error().code == ENOENT);
}
