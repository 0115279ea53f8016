// SPDX-License-Identifier: GPL-2.0-or-later
// A service manager's descriptor store, as a keeper sees it: a datagram socket that takes what it
// is given.
// Threads: one.
#pragma once

#include <sys/socket.h>
#include <sys/un.h>
#include <catch2/catch.hpp>
#include <cstring>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "keeper_process.hpp"

namespace ramfold::keeper::test {

// What systemd 252 does with FDSTORE and FDSTOREREMOVE; in the order it would be passed back.
class FakeManager {
 public:
  explicit FakeManager(const std::string& path) : path_(path) {
    socket_ = sys::Fd(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
    REQUIRE(::bind(socket_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) ==
            0);
  }

  void read_all() {
    while (read_one()) {
    }
  }
  bool ready = false;
  std::string status;
  std::map<std::string, sys::Fd> stored;
  std::vector<std::string> removed;  // in order

  KeeperProcess::Manager passes() {
    KeeperProcess::Manager manager;
    for (const auto& [name, fd] : stored) manager.passed.emplace_back(name, fd.get());
    manager.notify = path_;
    return manager;
  }
  std::set<std::string> names() {
    read_all();
    std::set<std::string> result;
    for (const auto& [name, fd] : stored) result.insert(name);
    return result;
  }

 private:
  bool read_one() {
    char text[1024];
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))];
    iovec part{text, sizeof text};
    msghdr header{};
    header.msg_iov = &part;
    header.msg_iovlen = 1;
    header.msg_control = control;
    header.msg_controllen = sizeof control;
    const ssize_t n = ::recvmsg(socket_.get(), &header, MSG_CMSG_CLOEXEC);
    if (n < 0) return false;
    sys::Fd fd;
    if (const cmsghdr* c = CMSG_FIRSTHDR(&header); c != nullptr) {
      int raw = -1;
      std::memcpy(&raw, CMSG_DATA(c), sizeof raw);
      fd = sys::Fd(raw);
    }
    apply({text, static_cast<std::size_t>(n)}, std::move(fd));
    return true;
  }
  void apply(const std::string& text, sys::Fd fd) {
    const auto has = [&](const char* line) {
      return ("\n" + text + "\n").find(std::string("\n") + line) != std::string::npos;
    };
    const auto value = [&](const std::string& key) {
      const std::size_t at = text.find(key + "=");
      if (at == std::string::npos) return std::string();
      const std::size_t from = at + key.size() + 1;
      return text.substr(from, text.find('\n', from) - from);
    };
    if (has("READY=1\n")) ready = true;
    if (has("STATUS=")) status = value("STATUS");
    const std::string name = value("FDNAME");
    CHECK(name.size() <= 255);
    CHECK(name.find(':') == std::string::npos);
    if (has("FDSTORE=1\n")) {
      CHECK(has("FDPOLL=0\n"));
      REQUIRE(fd);
      CHECK(stored.emplace(name, std::move(fd)).second);  // systemd would hold two of a name
    }
    if (has("FDSTOREREMOVE=1\n")) {
      CHECK(stored.erase(name) == 1);
      removed.push_back(name);
    }
  }

  std::string path_;
  sys::Fd socket_;
};

}  // namespace ramfold::keeper::test
