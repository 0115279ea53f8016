// SPDX-License-Identifier: GPL-2.0-or-later
// A zram device with LZ4 that the host swaps to while this lives, and memory of this process that
// goes there. SIGINT and SIGTERM give the device back, too.
// Threads: one. One ZramSwap at a time.
#pragma once

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/swap.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>
#include <vector>

#include "base/types.hpp"

namespace ramfold::bench {

class ZramSwap {
 public:
  explicit ZramSwap(ByteCount size) {
    std::ifstream("/sys/class/zram-control/hot_add") >> number_;
    if (number_ < 0) return;
    // Without LZ4 the device's own default stays, and algorithm() says so.
    write("comp_algorithm", "lz4");
    const std::string device = "/dev/zram" + std::to_string(number_);
    s_at_signal = this;
    s_owner = ::getpid();
    struct sigaction ending{};
    ending.sa_handler = [](int) {
      if (::getpid() != s_owner) ::_exit(1);  // a child that was forked meanwhile
      // A second signal may meet another thread.
      if (s_ending.exchange(true)) ::pause();
      s_at_signal->give_back();
      ::_exit(1);
    };
    ::sigfillset(&ending.sa_mask);  // swapoff ends early when a signal is pending
    for (const int signal : {SIGINT, SIGTERM}) ::sigaction(signal, &ending, nullptr);
    is_on_ = write("disksize", std::to_string(size.value)) &&
             std::system(("mkswap " + device + " > /dev/null 2>&1").c_str()) == 0 &&
             ::swapon(device.c_str(), SWAP_FLAG_PREFER | 32000) == 0;
  }
  ~ZramSwap() {
    if (number_ < 0) return;
    for (const int signal : {SIGINT, SIGTERM}) std::signal(signal, SIG_DFL);
    give_back();
  }
  ZramSwap(const ZramSwap&) = delete;
  ZramSwap& operator=(const ZramSwap&) = delete;

  bool is_on() const noexcept { return is_on_; }
  std::string algorithm() const {
    std::string line;
    std::getline(std::ifstream(path("comp_algorithm")), line);
    return line;
  }

 private:
  // In a signal handler, too: system calls alone.
  void give_back() const noexcept {
    std::array<char, 64> name{};
    std::array<char, 16> number{};
    std::snprintf(number.data(), number.size(), "%d", number_);
    std::snprintf(name.data(), name.size(), "/dev/zram%d", number_);
    for (int i = 0; i < kTries && ::swapoff(name.data()) != 0; ++i) ::usleep(10'000);
    std::snprintf(name.data(), name.size(), "/sys/block/zram%d/reset", number_);
    put(name.data(), "1");
    put("/sys/class/zram-control/hot_remove", number.data());
  }
  static void put(const char* file, const char* text) noexcept {
    const int fd = ::open(file, O_WRONLY | O_CLOEXEC);
    if (fd < 0 || ::write(fd, text, std::strlen(text)) < 0) std::perror(file);
    if (fd >= 0) ::close(fd);
  }
  std::string path(const char* name) const {
    return "/sys/block/zram" + std::to_string(number_) + "/" + name;
  }
  bool write(const char* name, const std::string& value) const {
    std::ofstream file(path(name));
    return static_cast<bool>(file << value << std::flush);
  }

  static constexpr int kTries = 100;
  static inline const ZramSwap* s_at_signal = nullptr;
  static inline pid_t s_owner = 0;
  static inline std::atomic<bool> s_ending{false};
  int number_ = -1;
  bool is_on_ = false;
};

// Shared memory, as a guest's RAM file.
class SwappedMemory {
 public:
  explicit SwappedMemory(PageCount pages)
      : pages_(pages),
        memory_(static_cast<std::byte*>(::mmap(nullptr, bytes(pages).value, PROT_READ | PROT_WRITE,
                                               MAP_SHARED | MAP_ANONYMOUS, -1, 0))) {
    (void)::madvise(memory_, bytes(pages).value, MADV_NOHUGEPAGE);
  }
  ~SwappedMemory() { ::munmap(memory_, bytes(pages_).value); }
  SwappedMemory(const SwappedMemory&) = delete;
  SwappedMemory& operator=(const SwappedMemory&) = delete;

  std::byte* get() const noexcept { return memory_; }
  // The part of it that is in swap afterwards.
  double page_out() const {
    for (int times = 0; times < 3; ++times)
      (void)::madvise(memory_, bytes(pages_).value, MADV_PAGEOUT);
    std::vector<unsigned char> there(pages_.value);
    if (::mincore(memory_, bytes(pages_).value, there.data()) != 0) return 0;
    const auto here = std::count_if(there.begin(), there.end(), [](auto b) { return b & 1; });
    return 1 - static_cast<double>(here) / static_cast<double>(pages_.value);
  }

 private:
  PageCount pages_;
  std::byte* memory_;
};

}  // namespace ramfold::bench
