// SPDX-License-Identifier: GPL-2.0-or-later
#include "scan/forget.hpp"

#include <chrono>

namespace ramfold::scan {
namespace {

// The agent's thread answers in well under a millisecond. An answer that comes later is lost with
// its question: the pages are asked about again in another pass.
constexpr std::chrono::milliseconds kPatience{100};

}  // namespace

TouchedPages ForgetSource::touched(const guest::Vm&, std::span<const SeenPage> seen,
                                   const History&) const {
  TouchedPages touched;
  for (std::size_t i = 0; i < seen.size(); ++i) touched[i] = seen[i].mapped;
  return touched;
}

bool ForgetSource::ask(const guest::Vm&, guest::AgentPort* agent, const Question& question,
                       std::span<const SeenPage> seen, History& history) const {
  if (question.count == 0) return false;
  const auto token =
      agent->send(guest::AgentAct::forget, std::span(question.runs).first(question.count));
  if (!token) return false;
  const auto answer = agent->take(*token, kPatience);
  if (!answer) agent->give_up(*token);
  if (answer != guest::AgentAnswer::done) return false;
  each_asked(question, seen, [&](const SeenPage& page) { history.ask(page.page); });
  return true;
}

}  // namespace ramfold::scan
