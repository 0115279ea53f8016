// SPDX-License-Identifier: GPL-2.0-or-later
// What keeper_systemd.sh does to the keeper inside its box:
//   keeper_probe fill COUNT PID  keeps COUNT memory files that contain their names, a userfaultfd,
//   and
//                                one more file under a prefix that is watched for PID
//   keeper_probe blow COUNT      the same without the process, and kills the keeper with SIGKILL at
//   the
//                                very moment of its last acknowledgement
//   keeper_probe check COUNT     finds them all, contents and all
//   keeper_probe list            one line of kind and name each
//   keeper_probe drop            drops what `fill` kept
//   keeper_probe daemon          stands in for ramfoldd: ready, and ends on SIGTERM with status 0,
//   or
//                                10 when /run/ramfold/off exists
#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>

#include "keeper/client.hpp"
#include "keeper/systemd_store.hpp"

namespace ramfold::keeper {
namespace {

[[noreturn]] void give_up(const Error& error) {
  std::fprintf(stderr, "keeper_probe: %s\n", error.text().c_str());
  std::exit(1);
}
template <typename T>
T must(Result<T> result) {
  if (!result) give_up(result.error());
  return std::move(*result);
}
void must(Status status) {
  if (!status) give_up(status.error());
}

// PROBE_NAME_SIZE pads the names, to come to the bound of their bytes.
std::string name_of(int i) {
  std::string name = "m" + std::to_string(i / 8) + "." + std::to_string(i % 8);
  const char* size = std::getenv("PROBE_NAME_SIZE");
  const auto wanted = static_cast<std::size_t>(size == nullptr ? 0 : std::atoi(size));
  return name + std::string(wanted > name.size() ? wanted - name.size() : 0, '-');
}

sys::Fd file_with(const std::string& text) {
  sys::Fd fd(::memfd_create("probe", MFD_CLOEXEC));
  if (::pwrite(fd.get(), text.data(), text.size(), 0) < 0) give_up({"pwrite", errno});
  return fd;
}

void fill(Client& client, int count, pid_t watched) {
  for (int i = 0; i < count; ++i) must(client.keep(name_of(i), file_with(name_of(i))));
  const sys::Fd uffd(
      static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC)));  // blocking: EPOLLERR
  if (uffd) must(client.keep("u.uffd", uffd));
  must(client.keep("w.ram", file_with("w.ram")));
  must(client.watch("w.", sys::Fd(static_cast<int>(::syscall(SYS_pidfd_open, watched, 0)))));
}

void blow(Client& client, int count) {
  const auto keeper = must(sys::peer_of(client.socket()));
  for (int i = 0; i < count; ++i) must(client.keep(name_of(i), file_with(name_of(i))));
  if (::kill(keeper.pid, SIGKILL) != 0) give_up({"kill the keeper", errno});
}

void check(Client& client, int count) {
  std::map<std::string, sys::Fd> all;
  for (Kept& kept : must(client.take_all())) {
    if (kept.kind == Kind::kept) all[kept.name] = std::move(kept.fd);
  }
  for (int i = 0; i < count; ++i) {
    char text[kNameMax + 1] = {};
    const auto it = all.find(name_of(i));
    if (it == all.end()) give_up({name_of(i) + " is missing", 0});
    if (::pread(it->second.get(), text, sizeof text - 1, 0) < 0 || name_of(i) != text) {
      give_up({name_of(i) + " is another file", 0});
    }
  }
}

void list(Client& client) {
  for (const Kept& kept : must(client.take_all())) {
    std::printf("%s %s\n", kept.kind == Kind::watch ? "watch" : "kept", kept.name.c_str());
  }
}

void drop(Client& client) {
  for (const Kept& kept : must(client.take_all())) {
    must(kept.kind == Kind::watch ? client.drop_prefix(kept.name) : client.drop(kept.name));
  }
}

int stand_in() {
  sigset_t term;
  ::sigemptyset(&term);
  ::sigaddset(&term, SIGTERM);
  ::sigprocmask(SIG_BLOCK, &term, nullptr);
  const char* notify = std::getenv("NOTIFY_SOCKET");
  must(SystemdStore::open(notify == nullptr ? "" : notify)).tell_ready();
  int number = 0;
  ::sigwait(&term, &number);
  return ::access("/run/ramfold/off", F_OK) == 0 ? 10 : 0;
}

int run(int argc, char** argv) {
  const std::string what = argc > 1 ? argv[1] : "";
  if (what == "daemon") return stand_in();
  Client client = must(Client::connect(kDefaultSocket));
  if (what == "fill" && argc == 4)
    fill(client, std::atoi(argv[2]), std::atoi(argv[3]));
  else if (what == "check" && argc == 3)
    check(client, std::atoi(argv[2]));
  else if (what == "blow" && argc == 3)
    blow(client, std::atoi(argv[2]));
  else if (what == "list")
    list(client);
  else if (what == "drop")
    drop(client);
  else
    return 2;
  return 0;
}

}  // namespace
}  // namespace ramfold::keeper

int main(int argc, char** argv) { return ramfold::keeper::run(argc, argv); }
