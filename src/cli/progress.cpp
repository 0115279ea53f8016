// SPDX-License-Identifier: GPL-2.0-or-later
#include "cli/progress.hpp"

#include <fmt/core.h>

#include <algorithm>

#include "base/clock.hpp"
#include "cli/text.hpp"

namespace ramfold::cli {
namespace {

constexpr std::uint64_t kDrawEveryNs = 100'000'000;
constexpr std::uint64_t kWidth = 30;
constexpr double kTellTimeAfterS = 1;

}  // namespace

std::string progress_bar(std::uint64_t done, std::uint64_t total, double elapsed_s) {
  done = std::min(done, total);
  const double share = static_cast<double>(done) / static_cast<double>(total);
  const auto filled = static_cast<std::size_t>(share * kWidth);
  std::string text = "[" + std::string(filled, '#') + std::string(kWidth - filled, '.') +
                     fmt::format("] {:3.0f} %", share * 100);
  if (elapsed_s >= kTellTimeAfterS && done != 0) {
    text += ", " + human_duration_s(elapsed_s / share - elapsed_s) + " left";
  }
  return text;
}

Progress::Progress(std::FILE* out, bool terminal, std::uint64_t total)
    : out_(out),
      terminal_(terminal),
      total_(std::max<std::uint64_t>(1, total)),
      began_ns_(monotonic_ns()) {}

Progress::~Progress() {
  if (drawn_ns_ == 0) return;
  std::fputs("\r\x1b[K", out_);
  std::fflush(out_);
}

void Progress::advance(std::uint64_t by) {
  done_ += by;
  const std::uint64_t now = monotonic_ns();
  if (!terminal_ || now - drawn_ns_ < kDrawEveryNs) return;
  drawn_ns_ = now;
  const double elapsed_s = static_cast<double>(now - began_ns_) / 1e9;
  std::fputs(("\r" + progress_bar(done_, total_, elapsed_s) + "\x1b[K").c_str(), out_);
  std::fflush(out_);
}

}  // namespace ramfold::cli
