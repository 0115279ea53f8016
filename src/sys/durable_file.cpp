// SPDX-License-Identifier: GPL-2.0-or-later
#include "sys/durable_file.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cerrno>
#include <cstdio>

#include "sys/fd.hpp"

namespace ramfold::sys {
namespace {

Status write_all(BorrowedFd file, std::string_view bytes, const std::string& path) {
  while (!bytes.empty()) {
    const ssize_t n = ::write(file.get(), bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return fail_errno("write " + path);
    bytes.remove_prefix(static_cast<std::size_t>(n));
  }
  return {};
}

Result<Fd> open_directory(const std::string& path) {
  constexpr int kFlags = O_RDONLY | O_DIRECTORY | O_CLOEXEC;
  Fd directory(::open(path.c_str(), kFlags));
  if (!directory && errno == ENOENT && ::mkdir(path.c_str(), 0700) == 0) {
    directory = Fd(::open(path.c_str(), kFlags));
  }
  if (!directory) return fail_errno("open the directory " + path);
  return directory;
}

}  // namespace

Result<std::optional<std::string>> read_small_file(const std::string& path, std::size_t bytes_max) {
  const Fd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!file) {
    if (errno == ENOENT || errno == ENOTDIR) return std::nullopt;
    return fail_errno("open " + path);
  }
  std::string text(bytes_max + 1, '\0');
  std::size_t size = 0;
  while (size < text.size()) {
    const ssize_t n = ::read(file.get(), text.data() + size, text.size() - size);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail_errno("read " + path);
    if (n == 0) break;
    size += static_cast<std::size_t>(n);
  }
  if (size > bytes_max) return fail("read " + path, EFBIG);
  text.resize(size);
  return text;
}

Status replace_file(const std::string& directory, const std::string& name, std::string_view bytes) {
  const auto dir = open_directory(directory);
  if (!dir) return std::unexpected(dir.error());
  const std::string temporary = name + ".new";
  const std::string path = directory + "/" + temporary;
  // Overwrites what a crash has left of an earlier attempt.
  const Fd file(::openat(dir->get(), temporary.c_str(),
                         O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!file) return fail_errno("open " + path);
  if (Status written = write_all(file, bytes, path); !written) return written;
  if (::fsync(file.get()) != 0) return fail_errno("fsync " + path);
  if (::renameat(dir->get(), temporary.c_str(), dir->get(), name.c_str()) != 0) {
    return fail_errno("rename " + path);
  }
  if (::fsync(dir->get()) != 0) return fail_errno("fsync " + directory);
  return {};
}

}  // namespace ramfold::sys
