// SPDX-License-Identifier: GPL-2.0-or-later
#include "cli/top_screen.hpp"

#include <poll.h>
#include <unistd.h>

#include <algorithm>

#define NCURSES_NOMACROS 1
#include <ncurses.h>

namespace ramfold::cli {
namespace {

constexpr short kRed = 1;

chtype attribute_of(TopLine::Kind kind, bool coloured) {
  switch (kind) {
    case TopLine::Kind::summary: return A_BOLD;
    case TopLine::Kind::notice: return A_DIM;
    case TopLine::Kind::heading: return A_REVERSE;
    case TopLine::Kind::over_budget:
      return coloured ? static_cast<chtype>(COLOR_PAIR(kRed)) : static_cast<chtype>(A_BOLD);
    case TopLine::Kind::plain: break;
  }
  return A_NORMAL;
}

}  // namespace

struct TopScreen::Handle {
  SCREEN* screen = nullptr;
  ~Handle() {
    if (screen == nullptr) return;
    ::endwin();
    ::delscreen(screen);
  }
};

std::unique_ptr<TopScreen> TopScreen::open(bool coloured) {
  std::unique_ptr<TopScreen> screen(new TopScreen);
  if (!screen->start(coloured)) return nullptr;
  return screen;
}

TopScreen::TopScreen() : handle_(std::make_unique<Handle>()) {}

bool TopScreen::start(bool coloured) {
  handle_->screen = ::newterm(nullptr, stdout, stdin);
  if (handle_->screen == nullptr) return false;
  ::cbreak();
  ::noecho();
  ::nonl();
  ::keypad(stdscr, TRUE);
  (void)::curs_set(0);
  coloured_ = coloured && ::has_colors() && ::start_color() == OK && ::use_default_colors() == OK &&
              ::init_pair(kRed, COLOR_RED, -1) == OK;
  return true;
}

TopScreen::~TopScreen() = default;

std::size_t TopScreen::width() const noexcept {
  return static_cast<std::size_t>(std::max(0, ::getmaxx(stdscr)));
}
std::size_t TopScreen::height() const noexcept {
  return static_cast<std::size_t>(std::max(0, ::getmaxy(stdscr)));
}

void TopScreen::draw(const std::vector<TopLine>& lines) {
  ::werase(stdscr);
  int y = 0;
  for (const TopLine& line : lines) {
    const chtype attribute = attribute_of(line.kind, coloured_);
    ::wattrset(stdscr, static_cast<int>(attribute));
    if (::wmove(stdscr, y++, 0) == ERR) break;
    // The last cell of the screen cannot be written without an error, which does no harm.
    (void)::waddnstr(stdscr, line.text.c_str(), static_cast<int>(line.text.size()));
  }
  ::wattrset(stdscr, A_NORMAL);
  ::wrefresh(stdscr);
}

char TopScreen::key(std::chrono::milliseconds patience) {
  ::wtimeout(stdscr, static_cast<int>(std::max<std::int64_t>(patience.count(), 0)));
  const int code = ::wgetch(stdscr);
  switch (code) {
    case ERR: {
      pollfd terminal{STDIN_FILENO, POLLIN, 0};
      const bool gone = ::poll(&terminal, 1, 0) == 1 && (terminal.revents & (POLLHUP | POLLERR));
      return gone ? kClosed : kNothing;
    }
    case KEY_RESIZE: return kResized;
    case KEY_UP: return kTopUp;
    case KEY_DOWN: return kTopDown;
    case KEY_PPAGE: return kTopPageUp;
    case KEY_NPAGE: return kTopPageDown;
    default: break;
  }
  // Anything else is no key of ours; control characters must not look like the names above.
  return code >= ' ' && code < 0x7f ? static_cast<char>(code) : kNothing;
}

}  // namespace ramfold::cli
