// SPDX-License-Identifier: GPL-2.0-or-later
// CPU that the gate takes a page: asking the kernel who holds the pages of a run, by its length,
// beside a run of the BPF program that looks at no page; and folding pages with the gate, beside
// folding the same pages without.
#include "base/clock.hpp"
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
  return report.print();
}
