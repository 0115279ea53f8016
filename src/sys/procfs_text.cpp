// SPDX-License-Identifier: GPL-2.0-or-later
#include "sys/procfs_text.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

namespace ramfold::sys::text {
namespace {

Result<Fd> open_read(const std::string& path) {
  // O_NONBLOCK: a fake tree or a strange mount may hold a fifo.
  Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK));
  if (!fd) return fail_errno("open " + path);
  return fd;
}

Result<std::size_t> read_some(BorrowedFd fd, char* to, std::size_t size) {
  for (;;) {
    const ssize_t n = ::read(fd.get(), to, size);
    if (n >= 0) return static_cast<std::size_t>(n);
    if (errno != EINTR) return fail_errno("read a file of /proc or /sys");
  }
}

}  // namespace

std::optional<std::string_view> value_of(std::string_view text, std::string_view key) noexcept {
  while (!text.empty()) {
    std::string_view line = before(text, '\n');
    if (!line.starts_with(key)) continue;
    line.remove_prefix(key.size());
    while (!line.empty() && is_blank(line.front())) line.remove_prefix(1);
    return line;
  }
  return std::nullopt;
}

ByteCount kilobytes_of(std::string_view text, std::string_view key) noexcept {
  std::string_view value = value_of(text, key).value_or("");
  const std::uint64_t kib = number<std::uint64_t>(word(value)).value_or(0);
  return ByteCount{std::min(kib, UINT64_MAX / 1024) * 1024};
}

std::string_view after_command(std::string_view stat) noexcept {
  const std::size_t end = stat.rfind(')');
  return end == std::string_view::npos ? std::string_view{} : stat.substr(end + 1);
}

std::string_view chosen(std::string_view text) noexcept {
  const std::size_t open = text.find('[');
  if (open == std::string_view::npos) return {};
  text.remove_prefix(open + 1);
  return before(text, ']');
}

Result<LineReader> LineReader::open(const std::string& path) {
  auto fd = open_read(path);
  if (!fd) return std::unexpected(std::move(fd.error()));
  return LineReader(std::move(*fd));
}

Status LineReader::fill() {
  if (begin_ > 0) {
    std::memmove(buffer_.data(), buffer_.data() + begin_, end_ - begin_);
    end_ -= begin_;
    begin_ = 0;
  }
  const auto n = read_some(fd_, buffer_.data() + end_, buffer_.size() - end_);
  if (!n) return std::unexpected(n.error());
  at_end_ = *n == 0;
  end_ += *n;
  bytes_ += *n;
  return {};
}

Result<std::optional<std::string_view>> LineReader::next() {
  for (;;) {
    const std::string_view have(buffer_.data() + begin_, end_ - begin_);
    const std::size_t newline = have.find('\n');
    if (newline != std::string_view::npos) {
      begin_ += newline + 1;
      if (!std::exchange(skipping_, false)) return have.substr(0, newline);
      continue;  // the rest of a line that was cut short
    }
    if (at_end_) {
      begin_ = end_;
      if (have.empty() || skipping_) return std::nullopt;
      return have;
    }
    if (have.size() == buffer_.size()) {
      begin_ = end_;
      if (!std::exchange(skipping_, true)) return have;
      continue;
    }
    if (Status status = fill(); !status) return std::unexpected(std::move(status.error()));
  }
}

Result<std::string> read_file(const std::string& path, ByteCount max) {
  auto fd = open_read(path);
  if (!fd) return std::unexpected(std::move(fd.error()));
  std::string content;
  while (content.size() <= max.value) {
    const std::size_t had = content.size();
    content.resize(had + std::min<std::uint64_t>(4096, max.value + 1 - had));
    const auto n = read_some(*fd, content.data() + had, content.size() - had);
    if (!n) return std::unexpected(n.error());
    content.resize(had + *n);
    if (*n == 0) return content;
  }
  return fail(path + " is too long to read", E2BIG);
}

}  // namespace ramfold::sys::text
