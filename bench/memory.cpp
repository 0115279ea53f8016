// SPDX-License-Identifier: GPL-2.0-or-later
// The memory of the bookkeeping: bytes per touched guest page, and bytes per content with its
// index. Stored blobs are not counted.
#include <sys/stat.h>
#include <fstream>
#include <string>

#include "bench/report.hpp"
#include "bench/rig.hpp"
#include "store/stats.hpp"

using namespace ramfold;

namespace {

constexpr std::uint64_t kPages = 131'072;  // 512 MiB, every page different

double backed(const sys::Fd& fd) {
  struct stat st{};
  return ::fstat(fd.get(), &st) == 0 ? static_cast<double>(st.st_blocks) * 512 : 0;
}

double page_tables_kb(pid_t pid) {
  std::ifstream status("/proc/" + std::to_string(pid) + "/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("VmPTE:")) return std::stod(line.substr(6));
  }
  return 0;
}

}  // namespace

int main() {
  const auto contents = bench::Rig::make_store();
  bench::Rig rig(contents, 1, kPages);
  for (std::uint64_t p = 0; p < kPages; ++p) rig.process().store(PageIndex{p}, p + 1);
  const double tables_before = page_tables_kb(rig.process().pid()) + page_tables_kb(::getpid());
  rig.pass();
  rig.pass();
  if (rig.folded() != kPages)
    std::fprintf(stderr, "only %lu of %lu pages are folded\n", rig.folded(), kPages);
  const store::Stats stats = contents->stats();
  const auto pages = static_cast<double>(kPages);
  // Words and discard bitmap as backed; the owners' byte a page.
  const double a_page =
      (backed(rig.vm().files().words) + backed(rig.vm().files().shared)) / pages + 1;
  double count = 0;
  for (const store::FormStats& form : stats.forms) count += static_cast<double>(form.contents);
  const double a_content = static_cast<double>(stats.metadata().value) / count;
  const double tables_after = page_tables_kb(rig.process().pid()) + page_tables_kb(::getpid());
  bench::Report report("memory");
  report.add({"bytes a touched guest page", "B", {}, {a_page}, {}, "<= 10", a_page <= 10});
  report.add(
      {"bytes a content, index included", "B", {}, {a_content}, {}, "<= 40", a_content <= 40});
  report.add({"growth of the kernel's page tables, both processes",
              "B a page",
              {},
              {(tables_after - tables_before) * 1024 / pages},
              {},
              "",
              {}});
  report.add({"arena lost to fragmentation", "%", {}, {stats.fragmentation() * 100}, {}, "", {}});
  return report.print();
}
