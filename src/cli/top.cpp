// SPDX-License-Identifier: GPL-2.0-or-later
#include "cli/top.hpp"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <thread>

#include "cli/client.hpp"
#include "cli/render.hpp"
#include "cli/top_screen.hpp"
#include "cli/top_view.hpp"

namespace ramfold::cli {
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

// A snapshot takes milliseconds. Keys wait while the daemon is asked, so this is short.
constexpr std::chrono::milliseconds kPatience = 3s;
// How many looks a notice about the daemon stays.
constexpr unsigned kNoticeLooks = 5;

// The daemon, over one connection for as long as it lasts.
class Daemon {
 public:
  explicit Daemon(std::string socket) : socket_(std::move(socket)) {}

  Asked<control::Snapshot> look() {
    auto seen = ask();
    if (!seen) client_.reset();
    return seen;
  }

 private:
  Asked<control::Snapshot> ask() {
    if (!client_) {
      auto made = Client::connect(socket_);
      if (!made) return std::unexpected(made.error());
      client_.emplace(std::move(*made));
    }
    const auto reply =
        client_->ask({++asked_, control::Operation::snapshot, {}, false}, kPatience, {});
    if (!reply) return std::unexpected(reply.error());
    if (const auto* view = std::get_if<control::Snapshot>(&reply->body)) return *view;
    if (const auto* error = std::get_if<control::OperationError>(&reply->body)) {
      return std::unexpected(ClientError{ClientError::Kind::broken, *error});
    }
    return std::unexpected(ClientError{ClientError::Kind::broken, another_kind()});
  }

  std::string socket_;
  std::optional<Client> client_;
  std::uint64_t asked_ = 0;
};

// The last two looks.
class Looks {
 public:
  explicit Looks(std::string socket) : daemon_(std::move(socket)) {}

  // The error of the last look; empty: it succeeded.
  const std::optional<ClientError>& error() const noexcept { return error_; }
  const control::Snapshot* now() const noexcept { return now_ ? &*now_ : nullptr; }
  // The last look may have found another daemon than the one before.
  bool restarted() const noexcept { return restarted_; }
  // There are two looks to compare.
  bool compares() const noexcept { return before_.has_value() && !error_; }

  void look() {
    auto seen = daemon_.look();
    restarted_ = false;
    if (!seen) {
      error_ = seen.error();
      return;
    }
    // After an error the daemon may be another one that has run for longer.
    restarted_ = error_.has_value() || (now_ && is_restarted(*now_, *seen));
    error_.reset();
    before_ = restarted_ ? std::nullopt : std::move(now_);
    now_ = std::move(*seen);
  }
  std::vector<TopRow> rows() const {
    if (!now_) return {};
    return top_rows(before_ ? &*before_ : nullptr, *now_);
  }

 private:
  Daemon daemon_;
  std::optional<control::Snapshot> before_;
  std::optional<control::Snapshot> now_;
  std::optional<ClientError> error_;
  bool restarted_ = false;
};

ExitCode run_plain(const TopOptions& options, const Console& console, Looks& looks) {
  const std::chrono::duration<double> delay(options.delay_seconds);
  unsigned left = options.count.value_or(1);
  bool said = false;
  while (true) {
    std::this_thread::sleep_for(delay);
    looks.look();
    if (looks.error()) {
      if (!said) console.complain(render_error(looks.error()->error, console.error_style));
      said = true;
      continue;
    }
    said = false;
    if (looks.restarted()) console.complain("connected to the daemon again: rates begin anew\n");
    if (!looks.compares()) continue;
    std::vector<TopRow> rows = looks.rows();
    sort_rows(rows, {});
    for (const TopLine& line : render_rows(rows, TopChoice{}.sort, console.style.width()))
      console.print(line.text + "\n");
    if (--left == 0) return std::fflush(console.out) == 0 ? ExitCode::ok : ExitCode::failed;
    console.print("\n");
    if (std::fflush(console.out) != 0) return ExitCode::failed;  // nobody reads any more
  }
}

ExitCode run_screen(const TopOptions& options, Looks& looks, TopScreen& screen) {
  const auto delay = std::chrono::duration_cast<Clock::duration>(
      std::chrono::duration<double>(options.delay_seconds));
  TopChoice choice;
  std::string notice;
  unsigned notice_left = 0;
  unsigned left = options.count.value_or(0);
  Clock::time_point due = Clock::now() + delay;
  const auto draw = [&] {
    std::vector<TopRow> rows = looks.rows();
    sort_rows(rows, choice);
    screen.draw(render_top(looks.now(), rows, choice, notice, screen.width(), screen.height()));
    return rows.size();
  };
  while (true) {
    const std::size_t rows = draw();
    const auto wait = std::chrono::ceil<std::chrono::milliseconds>(due - Clock::now());
    const char key = screen.key(std::max(wait, 0ms));
    if (key == 'q' || key == 'Q') return ExitCode::ok;
    if (key == TopScreen::kClosed) return ExitCode::failed;
    if (key != ' ' && Clock::now() < due) {
      (void)choice.take(key, rows, rows_on(screen.height()));
      continue;
    }
    looks.look();
    due = Clock::now() + delay;
    if (looks.error()) {
      notice = looks.error()->error.text + "; trying again";
      notice_left = kNoticeLooks;
    } else if (looks.restarted()) {
      notice = "connected to the daemon again: rates begin anew";
      notice_left = kNoticeLooks;
    } else if (notice_left != 0 && --notice_left == 0) {
      notice.clear();
    }
    if (left != 0 && looks.compares() && --left == 0) return ExitCode::ok;
  }
}

}  // namespace

ExitCode run_top(const TopOptions& options, const Console& console) {
  Looks looks(options.socket);
  looks.look();
  if (looks.error()) {
    console.complain(render_error(looks.error()->error, console.error_style));
    return exit_of(*looks.error());
  }
  if (console.tty && ::isatty(STDIN_FILENO) == 1) {
    if (const auto screen = TopScreen::open(console.style.coloured()))
      return run_screen(options, looks, *screen);
  }
  return run_plain(options, console, looks);
}

}  // namespace ramfold::cli
