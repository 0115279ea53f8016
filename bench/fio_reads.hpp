// SPDX-License-Identifier: GPL-2.0-or-later
// fio reads a file with O_DIRECT into a RAM file, as a QEMU with cache=none does for its guest: its
// buffers are a shared mapping of the RAM file's first pages, and its queue is always full.
// Threads: one.
#pragma once

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/types.hpp"
#include "sys/fd.hpp"

namespace ramfold::bench {

// A file on a disk, with data in it, that goes when this ends.
class DiskFile {
 public:
  static constexpr std::uint64_t kBytes = 32u << 20;

  // Nothing where /var/tmp cannot be written to, or not be read with O_DIRECT.
  static std::optional<DiskFile> make() {
    std::string path = "/var/tmp/ramfold-bench.XXXXXX";
    const sys::Fd file(::mkostemp(path.data(), O_CLOEXEC));
    if (!file) return std::nullopt;
    DiskFile made(std::move(path));
    const std::vector<char> part(1u << 20, 'd');
    for (std::uint64_t at = 0; at < kBytes; at += part.size()) {
      if (::write(file.get(), part.data(), part.size()) != static_cast<ssize_t>(part.size()))
        return std::nullopt;
    }
    const sys::Fd direct(::open(made.path().c_str(), O_RDONLY | O_DIRECT | O_CLOEXEC));
    if (::fsync(file.get()) != 0 || !direct) return std::nullopt;
    return made;
  }
  DiskFile(DiskFile&& other) noexcept : path_(std::exchange(other.path_, {})) {}
  DiskFile& operator=(DiskFile&&) = delete;
  ~DiskFile() {
    if (!path_.empty()) ::unlink(path_.c_str());
  }
  const std::string& path() const noexcept { return path_; }

 private:
  explicit DiskFile(std::string path) : path_(std::move(path)) {}
  std::string path_;
};

class FioReads {
 public:
  static constexpr std::uint64_t kPagesARead = 16;

  // REQUIRES: `ram` stays open, and has at least depth * kPagesARead pages.
  FioReads(sys::BorrowedFd ram, const DiskFile& disk, unsigned depth) {
    const std::string buffers =
        "--mem=mmapshared:/proc/" + std::to_string(::getpid()) + "/fd/" + std::to_string(ram.get());
    std::array words{std::string("fio"),
                     std::string("--name=reads"),
                     "--filename=" + disk.path(),
                     "--size=" + std::to_string(DiskFile::kBytes),
                     "--bs=" + std::to_string(kPagesARead * kPageSize),
                     std::string("--rw=randread"),
                     std::string("--direct=1"),
                     std::string("--ioengine=libaio"),
                     "--iodepth=" + std::to_string(depth),
                     buffers,
                     std::string("--thread"),  // one process
                     std::string("--time_based"),
                     std::string("--runtime=60"),  // it is ended before
                     std::string("--output=/dev/null")};
    std::array<char*, words.size() + 1> arguments{};
    std::ranges::transform(words, arguments.begin(), [](std::string& word) { return word.data(); });
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    for (const int fd : {STDOUT_FILENO, STDERR_FILENO})
      posix_spawn_file_actions_addopen(&actions, fd, "/dev/null", O_WRONLY, 0);
    if (::posix_spawnp(&pid_, "fio", &actions, nullptr, arguments.data(), environ) != 0) pid_ = -1;
    posix_spawn_file_actions_destroy(&actions);
  }
  FioReads(const FioReads&) = delete;
  FioReads& operator=(const FioReads&) = delete;
  ~FioReads() {
    if (pid_ < 0) return;
    ::kill(pid_, SIGKILL);
    while (::waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {
    }
  }
  bool runs() const {
    siginfo_t ended{};
    return pid_ > 0 &&
           ::waitid(P_PID, static_cast<id_t>(pid_), &ended, WEXITED | WNOHANG | WNOWAIT) == 0 &&
           ended.si_pid == 0;
  }

 private:
  pid_t pid_ = -1;
};

}  // namespace ramfold::bench
