// SPDX-License-Identifier: GPL-2.0-or-later
// `ramfold estimate` as a process, and what it shows.
#include "cli/estimate.hpp"

#include <elf.h>

#include <catch2/catch.hpp>
#include <cstring>
#include <nlohmann/json.hpp>

#include "../estimate/pages.hpp"
#include "../temp_dir.hpp"
#include "cli/progress.hpp"
#include "cli/qemu_command.hpp"
#include "spawn.hpp"

using namespace ramfold;
using namespace ramfold::cli;
using nlohmann::json;
using test::noise;
using test::zeros;

namespace {

Ran run(std::vector<std::string> arguments) {
  const char* program = std::getenv("RAMFOLD_BIN");
  if (program == nullptr) throw std::runtime_error("RAMFOLD_BIN");
  arguments.insert(arguments.begin(), {program, "estimate"});
  return spawn(arguments, {"LANG=C.UTF-8"});
}
bool has(const std::string& text, std::string_view part) {
  return text.find(part) != std::string::npos;
}

std::string ram_of(const std::vector<PageCopy>& pages) {
  std::string text;
  for (const PageCopy& page : pages) {
    text.append(reinterpret_cast<const char*>(page.bytes.data()), kPageSize);
  }
  return text;
}

}  // namespace

TEST_CASE("two dumps, as JSON and as text") {
  const TempDir dir;
  dir.write("a", ram_of({zeros(), noise(1), noise(2), noise(2)}));
  dir.write("b", ram_of({noise(1), noise(3)}));
  const Ran ran = run({"--json", dir / "a", dir / "b"});
  CHECK(ran.status == 0);
  CHECK(ran.err.empty());
  const json found = json::parse(ran.out)["estimate"];
  CHECK(found["sampled_one_of"] == 1);
  REQUIRE(found["vms"].size() == 2);
  const json& a = found["vms"][0];
  CHECK(a["name"] == dir / "a");
  CHECK_FALSE(a.contains("pid"));
  CHECK(a["touched_bytes"] == 4 * kPageSize);
  CHECK(a["alone"]["zero"]["saved_bytes"] == kPageSize);
  CHECK(a["alone"]["sharing"]["saved_bytes"] == kPageSize);
  CHECK(a["alone"]["best"]["saved_bytes"] == 2 * kPageSize);
  CHECK(a["alone"]["best"]["plus_minus_bytes"] == 0);
  CHECK(a["across"]["sharing"]["saved_bytes"] == 3 * kPageSize / 2);
  CHECK(found["together"]["across"]["sharing"]["saved_bytes"] == 2 * kPageSize);

  const Ran text = run({dir / "a", dir / "b"});
  CHECK(text.status == 0);
  CHECK(has(text.out, "sharing pages"));
  CHECK(has(text.out, "groups.default"));
  CHECK_FALSE(has(text.out, "+-"));
  CHECK_FALSE(has(text.out, "\x1b"));  // not a terminal
}

TEST_CASE("a sample is used when there is more RAM than it, and says so") {
  const TempDir dir;
  std::vector<PageCopy> pages;
  for (std::uint32_t i = 0; i < 2048; ++i) pages.push_back(noise(i / 2));
  dir.write("ram", ram_of(pages));
  const Ran ran = run({"--json", "--sample", "1", dir / "ram"});
  const json found = json::parse(ran.out)["estimate"];
  CHECK(found["sampled_one_of"] == 8);
  const json& sharing = found["vms"][0]["alone"]["sharing"];
  CHECK(sharing["saved_bytes"] == 1024 * kPageSize);  // every page is there twice
  CHECK(found["vms"][0]["sampled_bytes"] < 512 * kPageSize);
  CHECK(has(run({"--sample", "1", dir / "ram"}).out, "One of 8 clusters"));
  CHECK(json::parse(run({"--json", "--all", dir / "ram"}).out)["estimate"]["sampled_one_of"] == 1);
}

TEST_CASE("what cannot be read is told with its remedy") {
  const TempDir dir;
  const auto complains = [](const std::string& target, std::string_view of) {
    const Ran ran = run({target});
    INFO(target << ": " << ran.err);
    CHECK(ran.status == 1);
    CHECK(ran.out.empty());
    CHECK(has(ran.err, of));
  };
  complains("4194304", "there is no process 4194304: give the pid of a running QEMU");
  complains(std::to_string(::getpid()), "is not a QEMU that runs a VM: give the pid");
  complains(dir / "missing", "there is no file");
  complains(dir.path(), "not a regular file");
  dir.write("small", "x");
  complains(dir / "small", "no whole page");
  dir.write("kdump", "KDUMP   " + std::string(8192, 'x'));
  complains(dir / "kdump", "virsh dump --memory-only");
  const Ran as_json = run({"--json", dir / "missing"});
  CHECK(as_json.status == 1);
  CHECK(has(json::parse(as_json.out)["error"]["text"], "there is no file"));
  CHECK(run({"--sample", "0", dir / "small"}).status == 2);
  CHECK(run({"--sample", "5", "--all", dir / "small"}).status == 2);
}

TEST_CASE("a page that a dump names twice is one page, and equal to none") {
  const TempDir dir;
  Elf64_Ehdr header{};
  std::memcpy(header.e_ident, ELFMAG, SELFMAG);
  header.e_ident[EI_CLASS] = ELFCLASS64;
  header.e_ident[EI_DATA] = ELFDATA2LSB;
  header.e_type = ET_CORE;
  header.e_phoff = sizeof header;
  header.e_phnum = 2;
  Elf64_Phdr twice{};
  twice.p_type = PT_LOAD;
  twice.p_offset = sizeof header + 2 * sizeof twice;
  twice.p_filesz = kPageSize;
  std::string content(reinterpret_cast<const char*>(&header), sizeof header);
  for (int i = 0; i < 2; ++i) content.append(reinterpret_cast<const char*>(&twice), sizeof twice);
  dir.write("paged", content + ram_of({noise(1)}));
  const json vm = json::parse(run({"--json", dir / "paged"}).out)["estimate"]["vms"][0];
  CHECK(vm["touched_bytes"] == kPageSize);
  CHECK(vm["alone"]["sharing"]["saved_bytes"] == 0);
}

TEST_CASE("a file that is no RAM is one line that says what it is; --raw takes it all the same") {
  const TempDir dir;
  dir.write("ram.gz", std::string("\x1f\x8b\x08\0\0\0\0\0\0\x03", 10) + ram_of({noise(1)}));
  const Ran refused = run({dir / "ram.gz"});
  CHECK(refused.status == 1);
  CHECK(refused.out.empty());
  CHECK(has(refused.err, "ram.gz: not RAM: gzip compressed data"));
  CHECK(has(refused.err, "unpack it first"));
  CHECK(std::count(refused.err.begin(), refused.err.end(), '\n') == 1);
  const Ran raw = run({"--json", "--raw", dir / "ram.gz"});
  CHECK(raw.status == 0);
  CHECK(json::parse(raw.out)["estimate"]["vms"][0]["touched_bytes"] == kPageSize);
}

TEST_CASE("a QEMU that has no RAM yet") {
  const TempDir dir;
  const std::string program = dir / "qemu-system-x86_64";
  std::filesystem::copy_file("/bin/sleep", program);
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    ::execl(program.c_str(), program.c_str(), "60", nullptr);
    ::_exit(99);
  }
  const auto is_it = [&] {
    const std::vector<std::string> arguments = HostFiles("").arguments(child);
    return !arguments.empty() && is_qemu(arguments.front());
  };
  while (!is_it()) ::usleep(1000);
  const Ran ran = run({std::to_string(child)});
  CHECK(ran.status == 1);
  CHECK(has(ran.err, "its command line says 128 MiB: has it finished starting?\n"));
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
}

TEST_CASE("a VM's row stands above what would have to change for it") {
  test::FakeRam ram({zeros(), noise(1)});
  estimate::Census census(1);
  REQUIRE(census.add("web", ram, [](PageCount) {}));
  Check failed;
  failed.id = "vm.agent";
  failed.outcome = Outcome::fail;
  failed.text = "it runs without the agent";
  failed.remedy = "start it with the agent";
  Check passed;
  passed.text = "its memory limit holds all of its RAM";
  const Style plain(false);
  const std::string text = render_estimate({{"web (pid 7)", 7, {failed, passed}}}, census, plain);
  CHECK(has(text, "web (pid 7): what to change\n  it runs without the agent\n"));
  CHECK(has(text, "remedy: start it with the agent"));
  CHECK_FALSE(has(text, "memory limit"));
  CHECK(has(render_estimate({{"web", 7, {passed}}}, census, plain),
            "nothing, as far as can be seen"));
  CHECK_FALSE(
      has(render_estimate({{"ram.dump", std::nullopt, {}}}, census, plain), "what to change"));
  const json vm =
      json::parse(cli::json_of({{"web", 7, {failed, passed}}}, census))["estimate"]["vms"][0];
  CHECK(vm["pid"] == 7);
  REQUIRE(vm["changes"].size() == 1);
  CHECK(vm["changes"][0]["id"] == "vm.agent");
}

TEST_CASE("the progress bar") {
  CHECK(progress_bar(0, 10, 5) == "[..............................]   0 %");
  CHECK(progress_bar(5, 10, 0.5) == "[###############...............]  50 %");
  CHECK(progress_bar(5, 10, 20) == "[###############...............]  50 %, 20 s left");
  CHECK(progress_bar(11, 10, 20).starts_with("[##############################] 100 %"));
}
