// SPDX-License-Identifier: GPL-2.0-or-later
// CPU that the gate takes a page: asking the kernel who holds the pages of a run, by its length,
// beside a run of the BPF program that looks at no page; and folding pages with the gate, beside
// folding the same pages without. And the share of pages that the gate refuses while fio reads with
// O_DIRECT into a part of the RAM file, by the queue's depth.
#include "base/clock.hpp"
#include "bench/fio_reads.hpp"
#include "bench/report.hpp"
#include "bench/rig.hpp"
#include "guest/pin_proof.hpp"
#include "sys/page_batches.hpp"
#include "sys/pin_test.hpp"

using namespace ramfold;
using bench::Rig;

namespace {

constexpr std::uint64_t kPages = 16'384;  // 64 MiB
constexpr int kRepeats = 7;
constexpr std::uint64_t kCalls = 4096;

double ns_a_page(std::uint64_t ns, std::uint64_t pages) {
  return static_cast<double>(ns) / static_cast<double>(pages);
}

void touch(Rig& rig) {
  // Few contents: what is folded costs little beside the gate.
  for (std::uint64_t p = 0; p < kPages; ++p) rig.process().store(PageIndex{p}, p % 64 + 1);
  sys::drain_page_batches();
}

// `asked` pages a call, the cost over `length` pages.
double ask_cost(const sys::PinTest& test, sys::BorrowedFd ram, std::uint64_t asked,
                std::uint64_t length) {
  std::array<sys::PinAnswer, sys::PinTest::kPagesMax.value> answers{};
  std::uint64_t quiet = 0;
  const std::uint64_t began = thread_cpu_ns();
  for (std::uint64_t i = 0; i < kCalls; ++i) {
    const std::uint64_t first = i * 64 * 37 % (kPages - 64);
    (void)test.ask(ram, first, std::span(answers).first(asked));
    quiet += answers[0] == sys::PinAnswer::quiet;
  }
  const std::uint64_t spent = thread_cpu_ns() - began;
  if (asked != 0 && quiet < kCalls * 9 / 10)
    std::fprintf(stderr, "only %lu of %lu pages are quiet\n", quiet, kCalls);
  return ns_a_page(spent, kCalls * length);
}

// A gate that asks nobody.
class AllQuiet final : public guest::QuietProof {
 public:
  guest::ProofAnswer ask(guest::Vm& /*vm*/, PageRun run,
                         guest::PageMask /*leaving*/) noexcept override {
    return {guest::all_pages(run.count), guest::all_pages(run.count)};
  }
};

double fold_cost(std::unique_ptr<guest::QuietProof> proof) {
  Rig rig(Rig::make_store(), 1, kPages, false, std::move(proof));
  touch(rig);
  rig.pass();
  const std::uint64_t began = thread_cpu_ns();
  rig.pass();
  const std::uint64_t spent = thread_cpu_ns() - began;
  if (rig.folded() < kPages * 9 / 10)
    std::fprintf(stderr, "only %lu of %lu pages are folded\n", rig.folded(), kPages);
  return ns_a_page(spent, rig.folded());
}

// How many of `pages` from the first on are busy at this moment.
std::uint64_t busy_pages(const sys::PinTest& test, sys::BorrowedFd ram, std::uint64_t first,
                         std::uint64_t pages) {
  std::array<sys::PinAnswer, sys::PinTest::kPagesMax.value> answers{};
  std::uint64_t busy = 0;
  while (pages != 0) {
    const auto asked = std::span(answers).first(std::min<std::uint64_t>(answers.size(), pages));
    (void)test.ask(ram, first, asked);
    busy += static_cast<std::uint64_t>(std::ranges::count(asked, sys::PinAnswer::busy));
    first += asked.size();
    pages -= asked.size();
  }
  return busy;
}

// A RAM file whose pages all are in memory. Nobody maps it but fio, as nobody but QEMU maps a VM's.
sys::Fd resident_file() {
  auto file = sys::make_memfd("ramfold-bench-ram", ByteCount{kPages * kPageSize}, sys::Sealed::no);
  if (!file) return {};
  const std::vector<char> page(kPageSize, 'r');
  for (std::uint64_t p = 0; p < kPages; ++p) {
    if (::pwrite(file->get(), page.data(), page.size(), static_cast<off_t>(p * kPageSize)) !=
        static_cast<ssize_t>(page.size())) {
      return {};
    }
  }
  sys::drain_page_batches();
  return std::move(*file);
}

// Adds rows for a queue's depth. False: fio does not read here.
bool add_refused(bench::Report& report, const sys::PinTest& test, const bench::DiskFile& disk,
                 unsigned depth) {
  constexpr int kLooks = 30;  // of a repeat; at one look all buffers are held, or none
  constexpr timespec kBetween{.tv_sec = 0, .tv_nsec = 5'000'000};
  const sys::Fd ram = resident_file();
  if (!ram) return false;
  const bench::FioReads fio(ram, disk, depth);
  const std::uint64_t buffers = depth * bench::FioReads::kPagesARead;
  // It reads when the first of its buffers is held.
  for (int tries = 0; busy_pages(test, ram, 0, buffers) == 0; ++tries) {
    if (tries == 2000 || !fio.runs()) return false;
    ::nanosleep(&kBetween, nullptr);
  }
  const auto percent = [](std::uint64_t busy, std::uint64_t pages) {
    return 100 * static_cast<double>(busy) / static_cast<double>(kLooks * pages);
  };
  std::vector<double> of_all, of_buffers, in_queue;
  for (int repeat = 0; repeat < kRepeats; ++repeat) {
    std::uint64_t of_fio = 0, of_rest = 0;
    for (int look = 0; look < kLooks; ++look) {
      ::nanosleep(&kBetween, nullptr);
      of_fio += busy_pages(test, ram, 0, buffers);
      of_rest += busy_pages(test, ram, buffers, kPages - buffers);
    }
    of_all.push_back(percent(of_fio + of_rest, kPages));
    of_buffers.push_back(percent(of_fio, buffers));
    in_queue.push_back(percent(kLooks * buffers, kPages));
  }
  if (!fio.runs()) return false;
  const std::string at = "fio, queue depth " + std::to_string(depth);
  report.add({"refused of " + std::to_string(kPages * kPageSize >> 20) + " MiB, " + at,
              "%",
              in_queue,
              of_all,
              {},
              "",
              {}});
  report.add({"refused of fio's buffers, " + at, "%", {}, of_buffers, {}, "", {}});
  return true;
}

}  // namespace

int main() {
  const auto test = sys::PinTest::load(sys::Procfs());
  if (!test) {
    std::fprintf(stderr, "%s\n%s\n", test.error().text().c_str(),
                 std::string(test.error().remedy()).c_str());
    return 77;
  }
  bench::Report report("gate");
  {
    Rig rig(Rig::make_store(), 1, kPages, false);
    touch(rig);
    const sys::BorrowedFd ram(rig.vm().files().rams[0]);
    for (const std::uint64_t length : {1, 4, 16, 64}) {
      std::vector<double> floor, ours;
      for (int r = 0; r < kRepeats; ++r) {
        floor.push_back(ask_cost(*test, ram, 0, length));
        ours.push_back(ask_cost(*test, ram, length, length));
      }
      report.add(
          {"ask, runs of " + std::to_string(length), "ns per page", floor, ours, {}, "", {}});
    }
  }
  std::vector<double> without, with;
  for (int r = 0; r < kRepeats; ++r) {
    without.push_back(fold_cost(std::make_unique<AllQuiet>()));
    with.push_back(fold_cost(std::make_unique<guest::PinProof>(*test)));
  }
  report.add({"fold with the gate",
              "ns per page",
              without,
              with,
              {},
              "<= 1.15x without",
              bench::median_ratio(with, without) <= 1.15});
  const auto disk = bench::DiskFile::make();
  for (const unsigned depth : {1, 8, 32}) {
    if (disk && add_refused(report, *test, *disk, depth)) continue;
    std::fprintf(stderr, "no share that is refused under fio: %s\n",
                 disk ? "fio does not read (is it installed? scripts/deps.sh test)"
                      : "no file of /var/tmp can be read with O_DIRECT");
    break;
  }
  return report.print();
}
