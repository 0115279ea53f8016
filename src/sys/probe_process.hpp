// SPDX-License-Identifier: GPL-2.0-or-later
// A child process with a few pages of RAM in a memory file, and the means to drive it from outside
// as the daemon drives a QEMU. For the start-up self-test. Threads: one. The child runs nothing but
// system calls: its parent has threads.
#pragma once

#include <linux/userfaultfd.h>
#include <sys/types.h>

#include <array>
#include <cstdint>
#include <optional>

#include "base/result.hpp"
#include "base/types.hpp"
#include "sys/fd.hpp"
#include "sys/pagemap.hpp"
#include "sys/pin_test.hpp"
#include "sys/uffd.hpp"

namespace ramfold::sys {

inline constexpr PageCount kProbePages{80};

enum class ProbeOp : std::uint32_t {
  load,          // answers the page's first 8 bytes
  store,         // stores `value` there
  kernel_store,  // the same by read(2) of a pipe; answers 8, or a negative errno
  kernel_load,   // by write(2) to a pipe; answers the value, or a negative errno
  forget,        // madvise(MADV_DONTNEED)
  map_pool,      // maps page 0 of the pool over the page, private and writable
  write_from,    // process_vm_writev(2) to itself, from page `value`: pins the page, then reads the
                 // other one, then writes; answers 4096, or a negative errno
  register_buffer,    // the page becomes a buffer of an io_uring; answers 0, or a negative errno
  unregister_buffer,  // and is none any more
  page_out,           // madvise(MADV_PAGEOUT)
};

class ProbeProcess {
 public:
  // REQUIRES: `device` is /dev/userfaultfd.
  static Result<ProbeProcess> start(BorrowedFd device);
  ProbeProcess(ProbeProcess&& other) noexcept;
  ProbeProcess& operator=(ProbeProcess&&) = delete;
  ~ProbeProcess();  // kills and reaps the child

  pid_t pid() const noexcept { return pid_; }
  BorrowedFd ram() const noexcept { return ram_; }
  BorrowedFd uffd() const noexcept { return uffd_; }
  BorrowedFd pool() const noexcept { return pool_; }
  HostVirt address_of(PageIndex p) const noexcept {
    return HostVirt{base_ + (p.value << kPageShift)};
  }
  UffdRange range_of(PageIndex p) const noexcept { return {address_of(p), ByteCount{kPageSize}}; }

  // Lets the child do `op`; its answer comes when it is done. REQUIRES: no answer is outstanding.
  Status ask(ProbeOp op, PageIndex p, std::uint64_t value = 0) const;
  // Nothing when there is none within `wait_ms`.
  std::optional<std::int64_t> answer(int wait_ms) const;

 private:
  ProbeProcess() = default;

  pid_t pid_ = -1;
  Fd socket_;
  Fd ram_;
  Fd pool_;
  Fd uffd_;
  std::uint64_t base_ = 0;
};

// The calls that the daemon makes to fold a page and to bring it back. Virtual, so that a test can
// let one of them do something else.
class ProbeDriver {
 public:
  explicit ProbeDriver(const ProbeProcess& process) : process_(process), uffd_(process.uffd()) {}
  virtual ~ProbeDriver() = default;
  ProbeDriver(const ProbeDriver&) = delete;
  ProbeDriver& operator=(const ProbeDriver&) = delete;

  virtual Status handshake(std::uint64_t features);
  virtual UffdResult register_all();
  virtual UffdResult guard(PageIndex p);
  virtual UffdResult lift(PageIndex p, Wake wake);
  virtual UffdResult copy(PageIndex p, std::uint64_t value, Guard guard, Wake wake);
  virtual UffdResult zero(PageIndex p, Wake wake);
  virtual UffdResult poison(PageIndex p);
  virtual UffdResult wake(PageIndex p);
  virtual Status punch(PageIndex p);
  // The page's first 8 bytes by pread, or written by pwrite.
  virtual Result<std::uint64_t> read(PageIndex p);
  virtual Status write(PageIndex p, std::uint64_t value);
  // lseek(SEEK_DATA) says that the RAM file holds the page.
  virtual Result<bool> is_resident(PageIndex p);
  // The page's PAGEMAP_SCAN categories, read from outside.
  virtual Result<std::uint64_t> categories(PageIndex p);
  // Who holds a page of the RAM file, or of another, by the kernel's word.
  virtual PinAnswer pin_answer(const PinTest& test, BorrowedFd file, std::uint64_t index);
  // The next event; nothing when there is none within `wait_ms`.
  virtual std::optional<uffd_msg> event(int wait_ms);
  // How long to wait for an event that must come; long, because the host may be under load.
  virtual int patience_ms() const noexcept { return 1000; }

 protected:
  const ProbeProcess& process_;

 private:
  Uffd uffd_;
};

}  // namespace ramfold::sys
