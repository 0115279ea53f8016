// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/agents/command_channel.hpp"

#include <sys/socket.h>

#include <algorithm>

#include "base/check.hpp"
#include "sys/message.hpp"

namespace ramfold::daemon {
namespace {

guest::AgentAnswer meaning_of(const rf_answer& answer) noexcept {
  switch (answer.status) {
    case RF_ANSWER_DONE: return guest::AgentAnswer::done;
    case RF_ANSWER_REFUSED: return guest::AgentAnswer::refused;
    default: return guest::AgentAnswer::failed;
  }
}

}  // namespace

void CommandChannel::open(sys::BorrowedFd socket, std::uint32_t generation) {
  const MutexLock lock(mutex_);
  if (phase_ != Phase::fencing) return;
  phase_ = Phase::open;
  socket_ = socket.get();
  generation_ = generation;
}

void CommandChannel::close() noexcept {
  const MutexLock lock(mutex_);
  phase_ = Phase::closed;
  socket_ = -1;
  for (Place& place : places_) {
    if (place.state == State::unwanted) place.state = State::free;
    if (place.state != State::under_way) continue;
    place.state = State::answered;
    place.answer = guest::AgentAnswer::lost;
  }
  changed_.notify_all();
}

CommandChannel::Place* CommandChannel::place_of(std::uint32_t token) noexcept {
  const auto place = std::ranges::find_if(
      places_, [&](const Place& p) { return p.state != State::free && p.token == token; });
  return place == places_.end() ? nullptr : &*place;
}

void CommandChannel::answered(const rf_answer& answer) noexcept {
  const MutexLock lock(mutex_);
  Place* const place = place_of(answer.token);
  if (place == nullptr || place->state == State::answered) return;
  place->answer = meaning_of(answer);
  place->state = place->state == State::unwanted ? State::free : State::answered;
  changed_.notify_all();
}

bool CommandChannel::is_open() {
  const MutexLock lock(mutex_);
  return phase_ == Phase::open;
}

std::expected<guest::AgentToken, guest::NotSent> CommandChannel::send(
    guest::AgentAct act, std::span<const PageRun> runs, std::span<const ByteCount> in_pool) {
  ENSURE(runs.size() <= kRunsMax);
  ENSURE(in_pool.size() == (act == guest::AgentAct::map ? runs.size() : 0));
  rf_map_command message{};  // what stands behind the command is sent only to map
  rf_command& command = message.c;
  command.act = static_cast<std::uint32_t>(act);
  command.runs = static_cast<std::uint32_t>(runs.size());
  PageCount pages{0};
  for (std::size_t i = 0; i < runs.size(); ++i) {
    ENSURE(runs[i].count.value != 0);
    ENSURE(runs[i].count <= kPagesMax);
    pages.value += runs[i].count.value;
    command.run[i] = {runs[i].first.value << kPageShift, bytes(runs[i].count).value};
  }
  ENSURE(pages <= kPagesMax);
  for (std::size_t i = 0; i < in_pool.size(); ++i) message.pool[i] = in_pool[i].value;

  const MutexLock lock(mutex_);
  if (phase_ != Phase::open) return std::unexpected(guest::NotSent::closed);
  const auto place = std::ranges::find(places_, State::free, &Place::state);
  if (place == places_.end()) return std::unexpected(guest::NotSent::full);
  // Skips tokens that are in use after a wrap-around; at most kUnderWayMax are.
  while (place_of(++last_token_) != nullptr) {
  }
  command.token = last_token_;
  const std::size_t size = in_pool.empty() ? sizeof command : sizeof message;
  command.h = {RF_MAGIC, RF_COMMAND, 0, static_cast<std::uint32_t>(size), generation_};
  if (!sys::send(sys::BorrowedFd(socket_), std::as_bytes(std::span(&message, 1)).first(size), {},
                 MSG_DONTWAIT)) {
    // The agent does not read, or its connection has just ended.
    return std::unexpected(guest::NotSent::full);
  }
  *place = {State::under_way, last_token_, guest::AgentAnswer::lost};
  return guest::AgentToken{last_token_};
}

std::optional<guest::AgentAnswer> CommandChannel::take(guest::AgentToken token,
                                                       std::chrono::milliseconds wait) {
  const auto end = CondVar::Clock::now() + wait;
  const MutexLock lock(mutex_);
  Place* place = place_of(token.value);
  for (bool in_time = true; place != nullptr && place->state != State::answered;) {
    if (!in_time) return std::nullopt;
    in_time = changed_.wait_until(mutex_, end);
    place = place_of(token.value);
  }
  ENSURE(place != nullptr);  // else: taken twice, or never sent
  place->state = State::free;
  return place->answer;
}

void CommandChannel::give_up(guest::AgentToken token) {
  const MutexLock lock(mutex_);
  Place* const place = place_of(token.value);
  ENSURE(place != nullptr);
  place->state = place->state == State::under_way ? State::unwanted : State::free;
}

}  // namespace ramfold::daemon
