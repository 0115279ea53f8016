// SPDX-License-Identifier: GPL-2.0-or-later
#include "keeper/systemd_store.hpp"

#include <fcntl.h>
#include <sys/time.h>
#include <array>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <optional>

#include "base/clock.hpp"

namespace ramfold::keeper {
namespace {

constexpr int kListenFdsStart = 3;  // SD_LISTEN_FDS_START
constexpr std::string_view kListenerName = "keeper.socket";

std::string stored_name(const Entry& entry) {
  return (entry.kind == Kind::watch ? "w." : "k.") + std::string(entry.name());
}

struct Stored {
  Kind kind;
  std::string_view name;
};
std::optional<Stored> parse_stored(std::string_view name) noexcept {
  if (name.size() < 2) return std::nullopt;
  const std::string_view rest = name.substr(2);
  if (name.starts_with("k.") && valid_name(rest)) return Stored{Kind::kept, rest};
  if (name.starts_with("w.") && valid_prefix(rest)) return Stored{Kind::watch, rest};
  return std::nullopt;
}

long number_of(const char* variable) noexcept {
  const char* text = std::getenv(variable);
  if (text == nullptr) return -1;
  long value = -1;
  const auto [end, error] = std::from_chars(text, text + std::strlen(text), value);
  return error == std::errc{} && *end == '\0' ? value : -1;
}

std::string_view next_name(std::string_view& rest) noexcept {
  const std::size_t colon = rest.find(':');
  const std::string_view name = rest.substr(0, colon);
  rest = colon == std::string_view::npos ? std::string_view{} : rest.substr(colon + 1);
  return name;
}

}  // namespace

Result<SystemdStore> SystemdStore::open(std::string_view address) {
  SystemdStore store;
  if (address.empty() || (address[0] != '/' && address[0] != '@')) return store;
  if (address.size() >= sizeof store.address_.sun_path) return fail("NOTIFY_SOCKET", ENAMETOOLONG);
  store.address_.sun_family = AF_UNIX;
  std::memcpy(store.address_.sun_path, address.data(), address.size());
  if (address[0] == '@') store.address_.sun_path[0] = '\0';
  store.address_size_ = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + address.size());
  if (address[0] == '/') ++store.address_size_;
  store.socket_ = sys::Fd(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!store.socket_) return fail_errno("socket for NOTIFY_SOCKET");
  const timeval wait{kNotifyWait.count() / 1000, (kNotifyWait.count() % 1000) * 1000};
  if (::setsockopt(store.socket_.get(), SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof wait) != 0) {
    return fail_errno("SO_SNDTIMEO");
  }
  return store;
}

bool SystemdStore::try_send(std::string_view text, int fd, int flags) noexcept {
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control{};
  iovec part{const_cast<char*>(text.data()), text.size()};
  msghdr header{};
  header.msg_name = &address_;
  header.msg_namelen = address_size_;
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  if (fd >= 0) {
    header.msg_control = control.data();
    header.msg_controllen = control.size();
    cmsghdr* c = CMSG_FIRSTHDR(&header);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof fd);
    std::memcpy(CMSG_DATA(c), &fd, sizeof fd);
  }
  ssize_t n = 0;
  do {
    n = ::sendmsg(socket_.get(), &header, MSG_NOSIGNAL | flags);
  } while (n < 0 && errno == EINTR);
  return n >= 0;
}

bool SystemdStore::send(std::string_view text, int fd) noexcept {
  const bool patient = !stalled_ && monotonic_ns() < patient_until_ns_;
  stalled_ = !try_send(text, fd, patient ? 0 : MSG_DONTWAIT);
  return !stalled_;
}

void SystemdStore::be_patient() noexcept {
  using std::chrono::nanoseconds;
  patient_until_ns_ = monotonic_ns() + static_cast<std::uint64_t>(nanoseconds(kNotifyWait).count());
}

bool SystemdStore::store(const Entry& entry) {
  return flush() && send("FDSTORE=1\nFDPOLL=0\nFDNAME=" + stored_name(entry), entry.fd.get());
}

void SystemdStore::remove(const Entry& entry) {
  removals_.push_back("FDSTOREREMOVE=1\nFDNAME=" + stored_name(entry));
  flush();
}

bool SystemdStore::flush() {
  while (!removals_.empty()) {
    if (!send(removals_.front(), -1)) return false;
    removals_.pop_front();
  }
  return true;
}

void SystemdStore::tell(std::string_view state) {
  if (present()) try_send(state, -1, MSG_DONTWAIT);
}

void SystemdStore::tell_ready() {
  if (present()) try_send("READY=1", -1, 0);
}

Passed take_passed() {
  Passed passed;
  const long count = number_of("LISTEN_FDS");
  const char* names = std::getenv("LISTEN_FDNAMES");
  if (number_of("LISTEN_PID") != ::getpid() || count <= 0 || count > 1'000'000) return passed;
  std::string_view rest = names == nullptr ? "" : names;
  for (int fd = kListenFdsStart; fd < kListenFdsStart + static_cast<int>(count); ++fd) {
    const std::string_view name = next_name(rest);
    if (::fcntl(fd, F_SETFD, FD_CLOEXEC) != 0) continue;  // not open: nothing to hold
    const std::optional<Stored> stored = parse_stored(name);
    if (name == kListenerName && !passed.listener) {
      passed.listener = sys::Fd(fd);
    } else if (stored) {
      passed.kinds.push_back(stored->kind);
      passed.names.emplace_back(stored->name);
      passed.fds.emplace_back(fd);
    } else {
      ++passed.foreign;
    }
  }
  for (const char* variable : {"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"}) ::unsetenv(variable);
  return passed;
}

}  // namespace ramfold::keeper
