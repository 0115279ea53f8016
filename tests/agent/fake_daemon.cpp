// SPDX-License-Identifier: GPL-2.0-or-later
#include "fake_daemon.hpp"
#include "patience.hpp"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <stdexcept>
#include <utility>

namespace agent_test {
namespace {

[[noreturn]] void fail(const std::string& what) {
  throw std::runtime_error(what + ": " + std::strerror(errno));
}

int must(int result, const char* what) {
  if (result < 0) fail(what);
  return result;
}

bool readable_within(int fd, int ms) {
  pollfd p{fd, POLLIN, 0};
  return ::poll(&p, 1, ramfold::test::scaled(ms)) == 1;
}

constexpr size_t kControl = CMSG_SPACE(sizeof(int) * RF_FDS_MAX);

}  // namespace

Fd& Fd::operator=(Fd&& o) noexcept {
  if (this != &o) {
    reset();
    fd_ = o.release();
  }
  return *this;
}

void Fd::reset() {
  if (fd_ >= 0) ::close(fd_);
  fd_ = -1;
}

std::string temporary_directory() {
  struct Made {
    ~Made() {
      std::error_code ignored;
      for (const auto& path : paths) std::filesystem::remove_all(path, ignored);
    }
    std::vector<std::string> paths;
  };
  static Made made;
  char path[] = "/tmp/ramfold-agent-XXXXXX";
  if (::mkdtemp(path) == nullptr) fail("mkdtemp");
  must(::chmod(path, 0755), "chmod");
  made.paths.emplace_back(path);
  return path;
}

Shared::Shared(uint64_t pages, uint32_t session)
    : fd_(must(::memfd_create("ramfold-shared", MFD_CLOEXEC | MFD_ALLOW_SEALING), "memfd")),
      pages_(pages),
      bytes_(RF_SHARED_PAGE + (pages / 8 / RF_SHARED_PAGE + 1) * RF_SHARED_PAGE) {
  must(::ftruncate(fd_.get(), static_cast<off_t>(bytes_)), "ftruncate");
  must(::fcntl(fd_.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW), "seal");
  void* at = ::mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_SHARED, fd_.get(), 0);
  if (at == MAP_FAILED) fail("mmap");
  shared_ = static_cast<rf_shared*>(at);
  shared_->magic = RF_MAGIC;
  shared_->version = RF_VERSION_MAX;
  shared_->pages = pages;
  shared_->session = session;
}

Shared::~Shared() { ::munmap(shared_, bytes_); }

bool Shared::bit(uint64_t page) const {
  auto* words =
      reinterpret_cast<std::atomic<uint64_t>*>(reinterpret_cast<char*>(shared_) + RF_SHARED_PAGE);
  return ((words[page / 64] >> (page % 64)) & 1) != 0;
}

uint64_t Shared::bits() const {
  auto* words =
      reinterpret_cast<std::atomic<uint64_t>*>(reinterpret_cast<char*>(shared_) + RF_SHARED_PAGE);
  uint64_t count = 0;
  for (uint64_t i = 0; i < (pages_ + 63) / 64; ++i)
    count += static_cast<uint64_t>(std::popcount(words[i].load()));
  return count;
}

void Shared::clear_bits() {
  std::memset(reinterpret_cast<char*>(shared_) + RF_SHARED_PAGE, 0, bytes_ - RF_SHARED_PAGE);
}

Daemon::Daemon(std::string path) : path_(std::move(path)) { listen(); }

void Daemon::listen() {
  listening_ = Fd(must(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0), "socket"));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path_.copy(address.sun_path, sizeof address.sun_path - 1);
  ::unlink(path_.c_str());
  must(::bind(listening_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), "bind");
  must(::chmod(path_.c_str(), 0666), "chmod");
  must(::listen(listening_.get(), 8), "listen");
}

bool Daemon::connects_within(int ms) { return readable_within(listening_.get(), ms); }

void Daemon::accept() {
  if (!connects_within(kWaitMs)) throw std::runtime_error("the agent did not connect");
  peer_ = Fd(must(::accept4(listening_.get(), nullptr, nullptr, SOCK_CLOEXEC), "accept"));
}

pid_t Daemon::peer_pid() const {
  ucred peer{};
  socklen_t length = sizeof peer;
  must(::getsockopt(peer_.get(), SOL_SOCKET, SO_PEERCRED, &peer, &length), "SO_PEERCRED");
  return peer.pid;
}

void Daemon::hang_up() { peer_.reset(); }

void Daemon::die() {
  peer_.reset();
  listening_.reset();
  ::unlink(path_.c_str());
}

std::optional<Packet> Daemon::receive_within(int ms) {
  if (!readable_within(peer_.get(), ms)) return std::nullopt;
  Packet packet;
  packet.bytes.resize(RF_MESSAGE_MAX);
  iovec part{packet.bytes.data(), packet.bytes.size()};
  alignas(cmsghdr) char control[kControl];
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  const ssize_t length = ::recvmsg(peer_.get(), &message, MSG_CMSG_CLOEXEC);
  if (length < 0 && errno != ECONNRESET) fail("recvmsg");
  packet.bytes.resize(length < 0 ? 0 : static_cast<size_t>(length));
  if (length <= 0) return packet;
  for (cmsghdr* c = CMSG_FIRSTHDR(&message); c != nullptr; c = CMSG_NXTHDR(&message, c)) {
    const size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; ++i) {
      int fd;
      std::memcpy(&fd, CMSG_DATA(c) + i * sizeof fd, sizeof fd);
      packet.fds.emplace_back(fd);
    }
  }
  const auto& h = packet.as<rf_header>();
  if (h.magic != RF_MAGIC || h.length != packet.bytes.size())
    throw std::runtime_error("not a message of the protocol");
  return packet;
}

Packet Daemon::receive() {
  auto packet = receive_within(kWaitMs);
  if (!packet) throw std::runtime_error("the agent sent nothing");
  return std::move(*packet);
}

Packet Daemon::expect(rf_type type) {
  for (;;) {
    Packet packet = receive();
    if (packet.bytes.empty()) throw std::runtime_error("the agent hung up");
    if (packet.type() == type) return packet;
    if ((packet.as<rf_header>().flags & RF_FLAG_SKIPPABLE) == 0)
      throw std::runtime_error("message " + std::to_string(packet.type()) + " instead of " +
                               std::to_string(type));
  }
}

void Daemon::send(void* bytes, size_t length, uint16_t type, uint32_t generation, int fd) {
  auto* h = static_cast<rf_header*>(bytes);
  h->magic = RF_MAGIC;
  h->type = type;
  h->length = static_cast<uint32_t>(length);
  h->generation = generation;
  iovec part{bytes, length};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))]{};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  if (fd >= 0) {
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    cmsghdr* c = CMSG_FIRSTHDR(&message);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int));
    std::memcpy(CMSG_DATA(c), &fd, sizeof fd);
  }
  if (::sendmsg(peer_.get(), &message, MSG_NOSIGNAL) < 0) fail("sendmsg");
}

rf_hello Daemon::hello() {
  accept();
  return expect(RF_HELLO).as<rf_hello>();
}

void Daemon::welcome(rf_action action, uint32_t generation, int fd, uint8_t instance) {
  rf_welcome message{};
  message.version = RF_VERSION_MAX;
  message.action = static_cast<uint16_t>(action);
  message.instance[0] = instance;
  send(&message, sizeof message, RF_WELCOME, generation, fd);
}

rf_offer Daemon::offer(uint32_t generation) {
  const Fd device = open_userfaultfd();
  welcome(RF_ACTION_OFFER, generation, device.get());
  Packet packet = expect(RF_OFFER);
  const rf_offer offered = packet.as<rf_offer>();
  if (packet.fds.size() != offered.blocks + 1) throw std::runtime_error("descriptors missing");
  uffd = std::move(packet.fds[0]);
  ram.clear();
  for (size_t i = 1; i < packet.fds.size(); ++i) ram.push_back(std::move(packet.fds[i]));
  return offered;
}

void Daemon::attach(const Shared& shared, uint32_t generation) {
  rf_attached message{};
  message.instance[0] = 42;
  message.pages = shared->pages;
  send(&message, sizeof message, RF_ATTACHED, generation, shared.fd());
  expect(RF_READY);
}

void Daemon::attached_from_scratch(const Shared& shared, uint32_t generation) {
  hello();
  offer(generation);
  attach(shared, generation);
}

Guest::Guest(const std::string& socket, Options options) {
  int in[2], out[2], err[2];
  if (::pipe2(in, O_CLOEXEC) != 0 || ::pipe2(out, O_CLOEXEC) != 0 || ::pipe2(err, O_CLOEXEC) != 0)
    fail("pipe");
  const bool fake = options.command.empty();
  if (fake) options.command = {FAKE_QEMU};
  if (options.library.empty()) options.library = AGENT_PRELOAD;
  std::string preload = options.agent ? options.library : "";
  if (!options.preload.empty()) preload += (preload.empty() ? "" : ":") + options.preload;
  std::vector<char*> arguments;
  for (auto& word : options.command) arguments.push_back(word.data());
  arguments.push_back(nullptr);

  pid = must(::fork(), "fork");
  if (pid == 0) {
    ::dup2(in[0], 0);
    ::dup2(out[1], 1);
    ::dup2(err[1], 2);
    if (options.extra_fd >= 0) ::fcntl(options.extra_fd, F_SETFD, 0);
    ::setenv("LD_PRELOAD", preload.c_str(), 1);
    ::setenv("RAMFOLD_AGENT_SOCKET", socket.c_str(), 1);
    ::setenv("RAMFOLD_SETTLE_MS", "100", 1);
    for (auto& assignment : options.environment) ::putenv(assignment.data());
    if (options.uid != 0 && (::setgid(options.uid) != 0 || ::setuid(options.uid) != 0)) ::_exit(1);
    ::execvp(arguments[0], arguments.data());
    ::_exit(127);
  }
  ::close(in[0]);
  ::close(out[1]);
  ::close(err[1]);
  in_ = Fd(in[1]);
  out_ = Fd(out[0]);
  err_ = Fd(err[0]);
  if (fake) {
    const auto started = answer_within(kWaitMs);
    if (!started) throw std::runtime_error("the fake QEMU did not start: " + read_errors());
    inner_pid = static_cast<pid_t>(started->result);
  }
}

Guest::~Guest() {
  in_.reset();
  if (pid > 0 && exit_status < 0) {
    ::kill(pid, SIGKILL);
    ::waitpid(pid, nullptr, 0);
  }
  if (inner_pid > 0 && inner_pid != pid) ::kill(inner_pid, SIGKILL);
}

void Guest::tell(const std::string& line) {
  const std::string text = line + "\n";
  if (::write(in_.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size()))
    fail("write to the guest");
}

std::optional<Answer> Guest::answer_within(int ms) {
  const auto until =
      std::chrono::steady_clock::now() + std::chrono::milliseconds(ramfold::test::scaled(ms));
  while (output_.find('\n') == std::string::npos) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
        until - std::chrono::steady_clock::now());
    if (!readable_within(out_.get(), left.count() < 0 ? 0 : static_cast<int>(left.count())))
      return std::nullopt;
    char bytes[256];
    const ssize_t length = ::read(out_.get(), bytes, sizeof bytes);
    if (length <= 0) throw std::runtime_error("the guest ended: " + read_errors());
    output_.append(bytes, static_cast<size_t>(length));
  }
  const size_t end = output_.find('\n');
  Answer answer{};
  std::sscanf(output_.substr(0, end).c_str(), "%ld %d", &answer.result, &answer.error);
  output_.erase(0, end + 1);
  return answer;
}

Answer Guest::ask(const std::string& line) {
  tell(line);
  const auto answer = answer_within(kWaitMs);
  if (!answer) throw std::runtime_error("no answer to " + line);
  return *answer;
}

long Guest::good(const std::string& line) {
  const Answer answer = ask(line);
  if (answer.result < 0)
    throw std::runtime_error(line + " failed with " + std::to_string(answer.error));
  return answer.result;
}

std::string Guest::read_errors() {
  while (readable_within(err_.get(), 0)) {
    char bytes[512];
    const ssize_t length = ::read(err_.get(), bytes, sizeof bytes);
    if (length <= 0) break;
    errors_.append(bytes, static_cast<size_t>(length));
  }
  return errors_;
}

void Guest::wait_for_errors() {
  if (errors_.empty() && !readable_within(err_.get(), kWaitMs))
    throw std::runtime_error("nothing on stderr");
}

std::string Guest::read_output_until(const std::string& text) {
  while (output_.find(text) == std::string::npos) {
    char bytes[512];
    if (!readable_within(out_.get(), kWaitMs)) throw std::runtime_error("no " + text);
    const ssize_t length = ::read(out_.get(), bytes, sizeof bytes);
    if (length <= 0) break;
    output_.append(bytes, static_cast<size_t>(length));
  }
  const size_t end = std::min(output_.find(text) + text.size(), output_.size());
  std::string taken = output_.substr(0, end);
  output_.erase(0, end);
  return taken;
}

void Guest::finish() {
  in_.reset();
  for (int i = 0; i < kWaitMs / 10; ++i) {
    int status;
    if (::waitpid(pid, &status, WNOHANG) == pid) {
      exit_status = status;
      return;
    }
    ::poll(nullptr, 0, 10);
  }
  throw std::runtime_error("the guest does not end");
}

bool Guest::alive() const { return ::kill(inner_pid > 0 ? inner_pid : pid, 0) == 0; }

Fd open_userfaultfd() {
  return Fd(must(::open("/dev/userfaultfd", O_RDWR | O_CLOEXEC), "/dev/userfaultfd"));
}

void register_all(const Fd& uffd, uint64_t address, uint64_t size) {
  uffdio_register r{};
  r.range = {address, size};
  r.mode = UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP;
  must(::ioctl(uffd.get(), UFFDIO_REGISTER, &r), "UFFDIO_REGISTER");
}

bool missing_within(const Fd& uffd, int ms, uint64_t* address) {
  if (!readable_within(uffd.get(), ms)) return false;
  uffd_msg message;
  if (::read(uffd.get(), &message, sizeof message) != sizeof message) return false;
  *address = message.arg.pagefault.address;
  return message.event == UFFD_EVENT_PAGEFAULT;
}

void install(const Fd& uffd, uint64_t address, char byte) {
  alignas(4096) static char page[4096];
  std::memset(page, byte, sizeof page);
  uffdio_copy copy{};
  copy.dst = address & ~uint64_t{4095};
  copy.src = reinterpret_cast<uint64_t>(page);
  copy.len = sizeof page;
  must(::ioctl(uffd.get(), UFFDIO_COPY, &copy), "UFFDIO_COPY");
}

}  // namespace agent_test
