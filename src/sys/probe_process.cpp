// SPDX-License-Identifier: GPL-2.0-or-later
#include "sys/probe_process.hpp"

#include <fcntl.h>
#include <linux/io_uring.h>
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "base/page_copy.hpp"
#include "sys/close_all_but.hpp"
#include "sys/memory.hpp"
#include "sys/message.hpp"

#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif

namespace ramfold::sys {
namespace {

struct Command {
  ProbeOp op;
  std::uint32_t page;
  std::uint64_t value;
};

constexpr std::size_t kRamSize = kProbePages.value << kPageShift;

// Everything from here to child_main() runs in the child of a process with threads: system calls
// only, no allocation, no locks, no library state.

std::int64_t failed() noexcept { return -std::int64_t{errno}; }

// The kernel stores into the page, as it does for a device's write.
std::int64_t kernel_store(const int (&pipe_ends)[2], std::byte* page, std::uint64_t value) {
  if (::write(pipe_ends[1], &value, sizeof value) != sizeof value) return failed();
  const ssize_t n = ::read(pipe_ends[0], page, sizeof value);
  const std::int64_t result = n < 0 ? failed() : n;
  if (n < 0 && ::read(pipe_ends[0], &value, sizeof value) < 0) return failed();  // empty it again
  return result;
}

std::int64_t kernel_load(const int (&pipe_ends)[2], const std::byte* page) {
  if (::write(pipe_ends[1], page, sizeof(std::uint64_t)) < 0) return failed();
  std::int64_t value = 0;
  if (::read(pipe_ends[0], &value, sizeof value) != sizeof value) return failed();
  return value;
}

std::int64_t write_from(std::byte* page, std::byte* from) {
  const iovec local{from, kPageSize};
  const iovec remote{page, kPageSize};
  const ssize_t n = ::process_vm_writev(::getpid(), &local, 1, &remote, 1, 0);
  return n < 0 ? failed() : n;
}

// The ring of a child that has none yet is -1.
std::int64_t register_buffer(int& ring, std::byte* page) {
  if (ring < 0) {
    io_uring_params params{};
    ring = static_cast<int>(::syscall(__NR_io_uring_setup, 1, &params));
    if (ring < 0) return failed();
  }
  const iovec buffer{page, kPageSize};
  return ::syscall(__NR_io_uring_register, ring, IORING_REGISTER_BUFFERS, &buffer, 1) == 0
             ? 0
             : failed();
}

std::int64_t unregister_buffer(int ring) {
  return ::syscall(__NR_io_uring_register, ring, IORING_UNREGISTER_BUFFERS, nullptr, 0) == 0
             ? 0
             : failed();
}

std::int64_t carry_out(const Command& command, std::byte* base, int pool, const int (&pipe_ends)[2],
                       int& ring) {
  std::byte* page = base + (std::size_t{command.page} << kPageShift);
  auto* word = reinterpret_cast<volatile std::uint64_t*>(page);
  switch (command.op) {
    case ProbeOp::load: return static_cast<std::int64_t>(*word);
    case ProbeOp::store: *word = command.value; return 0;
    case ProbeOp::kernel_store: return kernel_store(pipe_ends, page, command.value);
    case ProbeOp::kernel_load: return kernel_load(pipe_ends, page);
    case ProbeOp::forget: return ::madvise(page, kPageSize, MADV_DONTNEED) == 0 ? 0 : failed();
    case ProbeOp::map_pool:
      return ::mmap(page, kPageSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, pool, 0) ==
                     page
                 ? 0
                 : failed();
    case ProbeOp::write_from: return write_from(page, base + (command.value << kPageShift));
    case ProbeOp::register_buffer: return register_buffer(ring, page);
    case ProbeOp::unregister_buffer: return unregister_buffer(ring);
    case ProbeOp::page_out: return ::madvise(page, kPageSize, MADV_PAGEOUT) == 0 ? 0 : failed();
  }
  return -EINVAL;
}

void send_start(int socket, std::uint64_t base, int uffd) {
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control{};
  iovec part{&base, sizeof base};
  msghdr header{};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  header.msg_control = control.data();
  header.msg_controllen = control.size();
  cmsghdr* c = CMSG_FIRSTHDR(&header);
  c->cmsg_level = SOL_SOCKET;
  c->cmsg_type = SCM_RIGHTS;
  c->cmsg_len = CMSG_LEN(sizeof uffd);
  std::memcpy(CMSG_DATA(c), &uffd, sizeof uffd);
  ::sendmsg(socket, &header, MSG_NOSIGNAL);
}

[[noreturn]] void child_main(int socket, int device, int ram, int pool) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  std::array kept{socket, device, ram, pool};
  std::sort(kept.begin(), kept.end());
  close_all_but(kept);
  void* base = ::mmap(nullptr, kRamSize, PROT_READ | PROT_WRITE, MAP_SHARED, ram, 0);
  const int uffd = ::ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
  int pipe_ends[2];
  if (base == MAP_FAILED || uffd < 0 || ::pipe2(pipe_ends, O_CLOEXEC | O_NONBLOCK) != 0) ::_exit(1);
  ::madvise(base, kRamSize, MADV_NOHUGEPAGE);
  send_start(socket, reinterpret_cast<std::uintptr_t>(base), uffd);
  int ring = -1;
  for (;;) {
    Command command;
    if (::recv(socket, &command, sizeof command, 0) != sizeof command) ::_exit(0);
    const std::int64_t result =
        carry_out(command, static_cast<std::byte*>(base), pool, pipe_ends, ring);
    if (::send(socket, &result, sizeof result, MSG_NOSIGNAL) != sizeof result) ::_exit(0);
  }
}

bool is_readable(int fd, int wait_ms) {
  pollfd p{fd, POLLIN, 0};
  int n = 0;
  do {
    n = ::poll(&p, 1, wait_ms);
  } while (n < 0 && errno == EINTR);
  return n == 1 && (p.revents & POLLIN) != 0;
}

constexpr int kStartMs = 2000;  // long, because the host may be under load

}  // namespace

Result<ProbeProcess> ProbeProcess::start(BorrowedFd device) {
  ProbeProcess process;
  auto ram = make_memfd("ramfold-self-test", ByteCount{kRamSize}, Sealed::no);
  auto pool = make_memfd("ramfold-self-test-pool", ByteCount{kPageSize}, Sealed::no);
  if (!ram) return std::unexpected(ram.error());
  if (!pool) return std::unexpected(pool.error());
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0)
    return fail_errno("socketpair");
  process.socket_.reset(ends[0]);
  const Fd theirs(ends[1]);
  process.ram_ = std::move(*ram);
  process.pool_ = std::move(*pool);
  process.pid_ = ::fork();
  if (process.pid_ < 0) return fail_errno("fork");
  if (process.pid_ == 0)
    child_main(theirs.get(), device.get(), process.ram_.get(), process.pool_.get());

  if (!is_readable(process.socket_.get(), kStartMs))
    return fail("the self-test's process does not start");
  std::array<std::byte, sizeof process.base_> first;
  auto message = receive(process.socket_, first, 0);
  if (!message) return std::unexpected(message.error());
  if (message->size != first.size() || message->fd_count != 1) {
    return fail("a userfaultfd cannot be made from /dev/userfaultfd in another process");
  }
  std::memcpy(&process.base_, first.data(), sizeof process.base_);
  process.uffd_ = std::move(message->fds[0]);
  return process;
}

ProbeProcess::ProbeProcess(ProbeProcess&& other) noexcept
    : pid_(std::exchange(other.pid_, -1)),
      socket_(std::move(other.socket_)),
      ram_(std::move(other.ram_)),
      pool_(std::move(other.pool_)),
      uffd_(std::move(other.uffd_)),
      base_(other.base_) {}

ProbeProcess::~ProbeProcess() {
  if (pid_ <= 0) return;
  ::kill(pid_, SIGKILL);
  int status = 0;
  while (::waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
  }
}

Status ProbeProcess::ask(ProbeOp op, PageIndex p, std::uint64_t value) const {
  const Command command{op, static_cast<std::uint32_t>(p.value), value};
  return send(socket_, std::as_bytes(std::span(&command, 1)), {}, 0);
}

std::optional<std::int64_t> ProbeProcess::answer(int wait_ms) const {
  if (!is_readable(socket_.get(), wait_ms)) return std::nullopt;
  std::int64_t value = 0;
  if (::recv(socket_.get(), &value, sizeof value, 0) != sizeof value) return std::nullopt;
  return value;
}

Status ProbeDriver::handshake(std::uint64_t features) { return uffd_.handshake(features); }
UffdResult ProbeDriver::register_all() {
  return uffd_.register_range({process_.address_of(PageIndex{0}), ByteCount{kRamSize}});
}
UffdResult ProbeDriver::guard(PageIndex p) { return uffd_.guard(process_.range_of(p)); }
UffdResult ProbeDriver::lift(PageIndex p, Wake wake) {
  return uffd_.lift(process_.range_of(p), wake);
}
UffdResult ProbeDriver::copy(PageIndex p, std::uint64_t value, Guard guard, Wake wake) {
  PageCopy page{};
  std::memcpy(page.bytes.data(), &value, sizeof value);
  return uffd_.copy(process_.address_of(p), page.bytes.data(), ByteCount{kPageSize}, guard, wake);
}
UffdResult ProbeDriver::zero(PageIndex p, Wake wake) {
  return uffd_.zero(process_.range_of(p), wake);
}
UffdResult ProbeDriver::poison(PageIndex p) { return uffd_.poison(process_.range_of(p), Wake::no); }
UffdResult ProbeDriver::wake(PageIndex p) { return uffd_.wake(process_.range_of(p)); }

Status ProbeDriver::punch(PageIndex p) {
  return sys::punch(process_.ram(), ByteCount{p.value << kPageShift}, ByteCount{kPageSize});
}

Result<std::uint64_t> ProbeDriver::read(PageIndex p) {
  std::uint64_t value = 0;
  const auto at = static_cast<off_t>(p.value << kPageShift);
  if (::pread(process_.ram().get(), &value, sizeof value, at) != sizeof value)
    return fail_errno("pread");
  return value;
}

Status ProbeDriver::write(PageIndex p, std::uint64_t value) {
  const auto at = static_cast<off_t>(p.value << kPageShift);
  if (::pwrite(process_.ram().get(), &value, sizeof value, at) != sizeof value)
    return fail_errno("pwrite");
  return {};
}

Result<bool> ProbeDriver::is_resident(PageIndex p) {
  const auto at = static_cast<off_t>(p.value << kPageShift);
  const off_t data = ::lseek(process_.ram().get(), at, SEEK_DATA);
  if (data < 0 && errno != ENXIO) return fail_errno("lseek(SEEK_DATA)");
  return data == at;
}

Result<std::uint64_t> ProbeDriver::categories(PageIndex p) {
  const Pagemap pagemap(process_.pid(), BorrowedFd(-1));
  std::array<PageRegion, 1> regions{};
  HostVirt walked;
  const auto n = pagemap.scan(process_.range_of(p), 0,
                              kPageWritten | kPageFile | kPagePresent | kPageSwapped | kPageHuge,
                              regions, walked);
  if (!n) return std::unexpected(n.error());
  return *n == 0 ? 0 : regions[0].categories;
}

PinAnswer ProbeDriver::pin_answer(const PinTest& test, BorrowedFd file, std::uint64_t index) {
  PinAnswer answer{};
  (void)test.ask(file, index, {&answer, 1});
  return answer;
}

std::optional<uffd_msg> ProbeDriver::event(int wait_ms) {
  if (!is_readable(uffd_.fd(), wait_ms)) return std::nullopt;
  uffd_msg message{};
  const auto n = uffd_.read_events({&message, 1});
  if (!n || *n != 1) return std::nullopt;
  return message;
}

}  // namespace ramfold::sys
