// SPDX-License-Identifier: GPL-2.0-or-later
// A guest of KVM that writes to 64 KiB of memory all the time, in 16-bit real mode: in each of 16
// pages a word counts up, and is zero at the end of 40 writes. Before each write the guest compares
// the word with what it wrote last.
// Threads: one runs the guest.
#pragma once

#include <fcntl.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <thread>

#include "sys/fd.hpp"

namespace ramfold::test {

class KvmWriter {
 public:
  static constexpr std::uint64_t kBytes = 64 << 10;

  explicit KvmWriter(void* memory) : kvm_(::open("/dev/kvm", O_RDWR | O_CLOEXEC)) {
    if (!kvm_) return;
    vm_.reset(::ioctl(kvm_.get(), KVM_CREATE_VM, 0));
    code_ = ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (!vm_ || code_ == MAP_FAILED) return;
    std::ranges::copy(kCode, static_cast<std::uint8_t*>(code_));
    kvm_userspace_memory_region region{};
    region.memory_size = 4096;
    region.userspace_addr = reinterpret_cast<std::uintptr_t>(code_);
    if (::ioctl(vm_.get(), KVM_SET_USER_MEMORY_REGION, &region) != 0) return;
    region.slot = 1;
    region.guest_phys_addr = 0x10000;
    region.memory_size = kBytes;
    region.userspace_addr = reinterpret_cast<std::uintptr_t>(memory);
    if (::ioctl(vm_.get(), KVM_SET_USER_MEMORY_REGION, &region) != 0) return;
    cpu_.reset(::ioctl(vm_.get(), KVM_CREATE_VCPU, 0));
    const int size = ::ioctl(kvm_.get(), KVM_GET_VCPU_MMAP_SIZE, 0);
    if (!cpu_ || size < static_cast<int>(sizeof *run_)) return;
    void* const at = ::mmap(nullptr, static_cast<std::size_t>(size), PROT_READ | PROT_WRITE,
                            MAP_SHARED, cpu_.get(), 0);
    kvm_sregs segments{};
    if (at == MAP_FAILED || ::ioctl(cpu_.get(), KVM_GET_SREGS, &segments) != 0) return;
    segments.cs.base = 0;
    segments.cs.selector = 0;
    kvm_regs registers{};
    registers.rflags = 2;
    if (::ioctl(cpu_.get(), KVM_SET_SREGS, &segments) != 0 ||
        ::ioctl(cpu_.get(), KVM_SET_REGS, &registers) != 0)
      return;
    run_ = static_cast<kvm_run*>(at);
    thread_ = std::thread([this] { run(); });
  }
  ~KvmWriter() {
    stop_ = true;
    if (thread_.joinable()) thread_.join();
  }

  bool runs() const { return run_ != nullptr && !failed_; }
  std::uint64_t rounds() const { return rounds_; }
  std::uint64_t lost() const { return lost_; }

 private:
  static constexpr std::uint8_t kRound = 0x10;
  static constexpr std::uint8_t kLost = 0x11;
  static constexpr std::array<std::uint8_t, 64> kCode{
      0xB8, 0x00,   0x10,        // 00 mov ax, 0x1000
      0x8E, 0xD8,                // 03 mov ds, ax
      0x31, 0xC0,                // 05 xor ax, ax
      0x8E, 0xC0,                // 07 mov es, ax
      0x31, 0xD2,                // 09 xor dx, dx
      0x31, 0xF6,                // 0b outer: xor si, si
      0xBF, 0x00,   0x08,        // 0d mov di, 0x800; what was written last
      0xB9, 0x28,   0x00,        // 10 page: mov cx, 40
      0x8B, 0x44,   0x60,        // 13 inner: mov ax, [si + 0x60]
      0x26, 0x3B,   0x05,        // 16 cmp ax, es:[di]
      0x75, 0x1F,                // 19 jne lost
      0x42,                      // 1b back: inc dx
      0x89, 0xD0,                // 1c mov ax, dx
      0x83, 0xF9,   0x01,        // 1e cmp cx, 1
      0x75, 0x02,                // 21 jne store
      0x31, 0xC0,                // 23 xor ax, ax
      0x89, 0x44,   0x60,        // 25 store: mov [si + 0x60], ax
      0x26, 0x89,   0x05,        // 28 mov es:[di], ax
      0xE2, 0xE6,                // 2b loop inner
      0x83, 0xC7,   0x02,        // 2d add di, 2
      0x81, 0xC6,   0x00, 0x10,  // 30 add si, 0x1000; 0 after 16 pages
      0x75, 0xDA,                // 34 jnz page
      0xE6, kRound,              // 36 out kRound, al
      0xEB, 0xD1,                // 38 jmp outer
      0xE6, kLost,               // 3a lost: out kLost, al
      0xEB, 0xDD,                // 3c jmp back
      0xF4, 0xF4,
  };

  void run() {
    while (!stop_) {
      if (::ioctl(cpu_.get(), KVM_RUN, 0) != 0 || run_->exit_reason != KVM_EXIT_IO) {
        if (!stop_ && errno == EINTR) continue;
        failed_ = true;
        return;
      }
      (run_->io.port == kRound ? rounds_ : lost_).fetch_add(1);
    }
  }

  sys::Fd kvm_;
  sys::Fd vm_;
  sys::Fd cpu_;
  void* code_ = nullptr;
  kvm_run* run_ = nullptr;
  std::atomic<bool> stop_{false};
  std::atomic<bool> failed_{false};
  std::atomic<std::uint64_t> rounds_{0};
  std::atomic<std::uint64_t> lost_{0};
  std::thread thread_;
};

}  // namespace ramfold::test
