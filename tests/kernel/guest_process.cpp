// SPDX-License-Identifier: GPL-2.0-or-later
#include "kernel/guest_process.hpp"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <algorithm>
#include <atomic>
#include <csetjmp>
#include <csignal>
#include <cstring>
#include <stdexcept>
#include <thread>
#include <vector>

#include "base/clock.hpp"
#include "guest/page_table.hpp"
#include "patience.hpp"
#include "sys/memory.hpp"
#include "sys/message.hpp"

namespace ramfold::test {
namespace {

// For an answer that comes; generous, because a thousand threads take a sanitizer long to start.
constexpr int kPatienceMs = 20'000;

struct Request {
  std::uint32_t op;
  std::uint32_t count;
  std::uint64_t page;
  std::uint64_t seed;
};

void must(bool ok, const char* what) {
  if (!ok) throw std::runtime_error(std::string(what) + ": " + std::strerror(errno));
}

thread_local sigjmp_buf* volatile t_on_bus_error = nullptr;  // the handler reads it at any moment

void bus_error(int) {
  if (t_on_bus_error != nullptr) ::siglongjmp(*t_on_bus_error, 1);
  ::_exit(2);
}

// Reads what others may be writing, or mapping away: that is what it is for.
[[gnu::no_sanitize("thread")]] std::uint64_t sum(const std::byte* page) {
  sigjmp_buf jump;
  if (sigsetjmp(jump, 1) != 0) return GuestProcess::kBusError;
  t_on_bus_error = &jump;
  std::uint64_t hash = 1469598103934665603u;
  for (std::size_t i = 0; i < kPageSize; ++i) {
    hash =
        (hash ^ std::to_integer<std::uint64_t>(static_cast<const volatile std::byte*>(page)[i])) *
        1099511628211u;
  }
  t_on_bus_error = nullptr;
  return hash;
}

// Accesses on threads of their own, so that the process goes on while they wait in a fault.
class Apart {
 public:
  void load(const std::byte* page) {
    threads_.emplace_back([this, page] { sum_ += sum(page); });
  }
  void store(std::byte* page, std::uint64_t seed) {
    threads_.emplace_back([page, seed] { fill_page(seed, page); });
  }
  std::uint64_t join() {
    for (std::thread& t : threads_) t.join();
    threads_.clear();
    return sum_.exchange(0);
  }

 private:
  std::vector<std::thread> threads_;
  std::atomic<std::uint64_t> sum_{0};
};

// A sweep's figures do not fit into one answer.
std::uint64_t g_sweep_median_ns = 0;

std::uint64_t sweep_here(const std::byte* ram, const Request& r) {
  const auto swept =
      sweep_memory(ram, static_cast<GuestProcess::Order>(r.seed), PageCount{r.count});
  g_sweep_median_ns = swept.median_ns;
  return swept.ns;
}

[[noreturn]] void serve(int socket, std::byte* ram, int ram_fd) {
  std::signal(SIGBUS, bus_error);
  Apart apart;
  for (;;) {
    Request r{};
    if (::recv(socket, &r, sizeof r, 0) != sizeof r) ::_exit(0);
    std::byte* page = ram + (r.page << kPageShift);
    std::uint64_t value = 0;
    switch (static_cast<GuestProcess::Op>(r.op)) {
      case GuestProcess::Op::store: fill_page(r.seed, page); break;
      case GuestProcess::Op::store_run:
        for (std::uint64_t i = 0; i < r.count; ++i) fill_page(r.seed + i, page + (i << kPageShift));
        break;
      case GuestProcess::Op::load: value = sum(page); break;
      case GuestProcess::Op::discard:
        value = static_cast<std::uint64_t>(
            ::fallocate(ram_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                        static_cast<off_t>(r.page << kPageShift), kPageSize));
        break;
      case GuestProcess::Op::forget:
        value = static_cast<std::uint64_t>(
            ::madvise(page, std::size_t{r.count} << kPageShift, MADV_DONTNEED));
        break;
      case GuestProcess::Op::zero: std::memset(page, 0, kPageSize); break;
      case GuestProcess::Op::load_apart:
        for (std::uint32_t i = 0; i < r.count; ++i)
          apart.load(page + (std::uint64_t{i} << kPageShift));
        break;
      case GuestProcess::Op::store_apart: apart.store(page, r.seed); break;
      case GuestProcess::Op::collect: value = apart.join(); break;
      case GuestProcess::Op::map_over:
        value = ::mmap(page, kPageSize, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != page;
        break;
      case GuestProcess::Op::read_ns: {
        const std::uint64_t began = monotonic_ns();
        (void)*static_cast<volatile std::byte*>(page);
        value = monotonic_ns() - began;
        break;
      }
      case GuestProcess::Op::write_ns: {
        const std::uint64_t began = monotonic_ns();
        *static_cast<volatile std::byte*>(page + 100) = std::byte{1};
        value = monotonic_ns() - began;
        break;
      }
      case GuestProcess::Op::sweep: value = sweep_here(ram, r); break;
      case GuestProcess::Op::sweep_median: value = g_sweep_median_ns; break;
      case GuestProcess::Op::quit: ::_exit(0);
    }
    if (::send(socket, &value, sizeof value, 0) != sizeof value) ::_exit(0);
  }
}

}  // namespace

void fill_page(std::uint64_t seed, std::byte* page) {
  if (seed == 0) {
    std::memset(page, 0, kPageSize);
    return;
  }
  std::uint64_t state = seed * 0x9e3779b97f4a7c15u;
  for (std::size_t i = 0; i < kPageSize; i += 16) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    std::memcpy(page + i, &state, 8);
    std::memcpy(page + i + 8, &seed, 8);
  }
}

std::unique_ptr<GuestProcess> GuestProcess::start(PageCount pages) {
  auto guest = std::make_unique<GuestProcess>();
  guest->pages_ = pages;
  std::array<int, 2> ends{};
  must(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends.data()) == 0, "socketpair");
  auto ram = sys::make_memfd("test-ram", bytes(pages), sys::Sealed::yes);
  must(ram.has_value(), "memfd");
  guest->ram_ = std::move(*ram);
  guest->pid_ = ::fork();
  must(guest->pid_ >= 0, "fork");
  if (guest->pid_ == 0) {
    ::close(ends[0]);
    void* at = ::mmap(nullptr, bytes(pages).value, PROT_READ | PROT_WRITE, MAP_SHARED,
                      guest->ram_.get(), 0);
    const int device = ::open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
    const int uffd = ::ioctl(device, _IO(0xAA, 0x00), O_CLOEXEC | O_NONBLOCK);
    if (at == MAP_FAILED || uffd < 0) ::_exit(1);
    (void)::madvise(at, bytes(pages).value, MADV_NOHUGEPAGE);
    const auto base = reinterpret_cast<std::uint64_t>(at);
    const std::array fds{uffd};
    (void)sys::send(sys::BorrowedFd(ends[1]), std::as_bytes(std::span(&base, 1)), fds, 0);
    serve(ends[1], static_cast<std::byte*>(at), guest->ram_.get());
  }
  ::close(ends[1]);
  guest->socket_.reset(ends[0]);
  auto message =
      sys::receive(guest->socket_, std::as_writable_bytes(std::span(&guest->base_, 1)), 0);
  must(message.has_value() && message->fd_count == 1, "the child's userfaultfd");
  guest->uffd_ = std::move(message->fds[0]);
  return guest;
}

GuestProcess::~GuestProcess() {
  if (pid_ > 0) {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
}

guest::Vm::Files GuestProcess::files_for(std::uint32_t id, guest::VmRecord& record) {
  record.vm = id;
  record.pid = pid_;
  record.blocks = 1;
  struct stat st{};
  must(::fstat(ram_.get(), &st) == 0, "fstat");
  record.block[0] = {base_, bytes(pages_).value, 0, st.st_dev, st.st_ino};
  record.features = sys::Uffd::kFeaturesNeeded | sys::Uffd::kFeaturePoison;
  must(sys::Uffd(uffd_).handshake(record.features).has_value(), "handshake");
  guest::Vm::Files files;
  files.uffd = std::move(*uffd_.duplicate());
  files.rams.push_back(std::move(*ram_.duplicate()));
  files.words =
      std::move(*sys::make_memfd("words", guest::PageTable::words_size(pages_), sys::Sealed::yes));
  files.shared = std::move(
      *sys::make_memfd("shared", guest::PageTable::shared_size(pages_), sys::Sealed::yes));
  return files;
}

std::unique_ptr<guest::Vm> GuestProcess::make_vm(std::uint32_t id) {
  guest::VmRecord record;
  guest::Vm::Files files = files_for(id, record);
  auto vm = guest::Vm::make(record, std::move(files));
  must(vm.has_value(), "a VM");
  return std::move(*vm);
}

void GuestProcess::ask(Op op, PageIndex p, std::uint64_t seed, std::uint32_t count) {
  const Request r{static_cast<std::uint32_t>(op), count, p.value, seed};
  const ssize_t sent = ::send(socket_.get(), &r, sizeof r, MSG_NOSIGNAL);
  const bool ended = sent < 0 && (errno == EPIPE || errno == ECONNRESET);
  must(ended || sent == sizeof r, "ask the child");
}

bool GuestProcess::answer(std::uint64_t& value, int ms) {
  pollfd p{socket_.get(), POLLIN, 0};
  if (::poll(&p, 1, scaled(ms)) != 1) return false;
  return ::recv(socket_.get(), &value, sizeof value, 0) == sizeof value;
}

void GuestProcess::store(PageIndex p, std::uint64_t seed) {
  std::uint64_t ignored = 0;
  ask(Op::store, p, seed);
  must(answer(ignored, kPatienceMs), "a store that ends");
}

void GuestProcess::store_run(PageIndex p, std::uint64_t seed, std::uint32_t count) {
  ask(Op::store_run, p, seed, count);
  std::uint64_t value = 0;
  must(answer(value, kPatienceMs), "stores");
}
std::uint64_t GuestProcess::load(PageIndex p) {
  std::uint64_t value = 0;
  ask(Op::load, p, 0);
  must(answer(value, kPatienceMs), "a load that ends");
  return value;
}

std::uint64_t GuestProcess::timed(Op op, PageIndex p) {
  std::uint64_t ns = 0;
  ask(op, p, 0);
  must(answer(ns, kPatienceMs), "a touch that ends");
  return ns;
}

GuestProcess::Swept sweep_memory(const std::byte* memory, GuestProcess::Order order,
                                 PageCount pages) {
  std::vector<std::uint32_t> times(pages.value);
  const std::uint64_t began = monotonic_ns();
  std::uint64_t then = began;
  for (std::uint64_t i = 0; i < pages.value; ++i) {
    (void)static_cast<const volatile std::byte*>(
        memory)[swept_page(order, i, pages.value) << kPageShift];
    const std::uint64_t now = monotonic_ns();
    times[i] = static_cast<std::uint32_t>(now - then);
    then = now;
  }
  const auto middle = times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2);
  std::nth_element(times.begin(), middle, times.end());
  return {then - began, *middle};
}

GuestProcess::Swept GuestProcess::sweep(Order order, PageCount pages) {
  constexpr int kSweepMs = 600'000;
  Swept swept{};
  ask(Op::sweep, PageIndex{0}, static_cast<std::uint64_t>(order),
      static_cast<std::uint32_t>(pages.value));
  must(answer(swept.ns, kSweepMs), "a sweep that ends");
  ask(Op::sweep_median, PageIndex{0}, 0);
  must(answer(swept.median_ns, kPatienceMs), "a sweep's figures");
  return swept;
}

void GuestProcess::discard(PageIndex p) {
  std::uint64_t result = 0;
  ask(Op::discard, p, 0);
  must(answer(result, kPatienceMs) && result == 0, "a discard that ends");
}

void GuestProcess::forget(PageIndex p, std::uint32_t count) {
  std::uint64_t result = 0;
  ask(Op::forget, p, 0, count);
  must(answer(result, kPatienceMs) && result == 0, "a forget that ends");
}

void GuestProcess::load_apart(PageIndex p, std::uint32_t count) {
  std::uint64_t ignored = 0;
  ask(Op::load_apart, p, 0, count);
  must(answer(ignored, kPatienceMs), "threads that begin");
}

void GuestProcess::store_apart(PageIndex p, std::uint64_t seed) {
  std::uint64_t ignored = 0;
  ask(Op::store_apart, p, seed);
  must(answer(ignored, kPatienceMs), "a thread that begins");
}

std::optional<std::uint64_t> GuestProcess::collect(int ms) {
  std::uint64_t value = 0;
  if (!collecting_) ask(Op::collect, PageIndex{0}, 0);
  collecting_ = !answer(value, ms);
  if (collecting_) return std::nullopt;
  return value;
}

void GuestProcess::map_over(PageIndex p) {
  std::uint64_t result = 0;
  ask(Op::map_over, p, 0);
  must(answer(result, kPatienceMs) && result == 0, "a mapping over the page");
}

std::uint64_t GuestProcess::checksum(std::uint64_t seed) {
  std::array<std::byte, kPageSize> page;
  fill_page(seed, page.data());
  return sum(page.data());
}

}  // namespace ramfold::test
