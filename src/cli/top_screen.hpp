// SPDX-License-Identifier: GPL-2.0-or-later
// The terminal of `ramfold top`, by ncurses, which restores it also when a signal ends the process.
// Threads: one; one screen at a time.
#pragma once

#include <chrono>
#include <memory>
#include <vector>

#include "cli/text.hpp"
#include "cli/top_view.hpp"

namespace ramfold::cli {

class TopScreen {
 public:
  // Null: the terminal ($TERM) is not known, or cannot move its cursor.
  static std::unique_ptr<TopScreen> open(bool coloured);
  ~TopScreen();
  TopScreen(const TopScreen&) = delete;
  TopScreen& operator=(const TopScreen&) = delete;

  std::size_t width() const noexcept;
  std::size_t height() const noexcept;
  void draw(const std::vector<TopLine>& lines);

  static constexpr char kNothing = '\0';    // no key was pressed in time
  static constexpr char kResized = '\x10';  // the terminal has another size
  static constexpr char kClosed = '\x11';   // nobody is at the terminal any more
  // The next key (cli/top_view.hpp), or one of these.
  char key(std::chrono::milliseconds patience);

 private:
  struct Handle;
  TopScreen();
  bool start(bool coloured);

  Utf8 utf8_;  // before the terminal starts: ncurses asks which characters there are
  std::unique_ptr<Handle> handle_;
  bool coloured_ = false;
};

}  // namespace ramfold::cli
