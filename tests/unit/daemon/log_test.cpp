// SPDX-License-Identifier: GPL-2.0-or-later
// The daemon's log, as its reader gets it: each case in a child, since it is set up once.
#include "daemon/log.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <catch2/catch.hpp>
#include <cstdlib>

#include "policy/config.hpp"
#include "sys/fd.hpp"

using namespace ramfold;

namespace {

enum class Reader { journal, another, nobody };

// What `write` writes where stderr is a pipe that the journal reads, or another's.
std::string logged(Reader reader, void (*write)()) {
  int ends[2];
  REQUIRE(::pipe2(ends, O_CLOEXEC) == 0);
  const sys::Fd out(ends[0]);
  sys::Fd in(ends[1]);
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    ::dup2(in.get(), STDERR_FILENO);
    struct stat st{};
    ::fstat(STDERR_FILENO, &st);
    const auto inode = st.st_ino + (reader == Reader::another ? 1 : 0);
    const std::string stream = std::to_string(st.st_dev) + ":" + std::to_string(inode);
    ::unsetenv("JOURNAL_STREAM");
    if (reader != Reader::nobody) ::setenv("JOURNAL_STREAM", stream.c_str(), 1);
    daemon::log::set_up();
    write();
    ::_exit(0);
  }
  in.reset();
  std::string text;
  char part[512];
  for (ssize_t n = 0; (n = ::read(out.get(), part, sizeof part)) > 0;) {
    text.append(part, static_cast<std::size_t>(n));
  }
  ::waitpid(child, nullptr, 0);
  return text;
}

void write_each() {
  daemon::log::critical("one {}", 1);
  daemon::log::error("two");
  daemon::log::warn("three");
  daemon::log::info("four");
}

}  // namespace

TEST_CASE("the journal gets a priority before each line and no second timestamp") {
  CHECK(logged(Reader::journal, write_each) == "<2>one 1\n<3>two\n<4>three\n<6>four\n");
}

TEST_CASE("anybody else gets a timestamp and the level's name") {
  for (const Reader reader : {Reader::another, Reader::nobody}) {
    const std::string text = logged(reader, write_each);
    INFO(text);
    CHECK(text.find('<') == std::string::npos);
    CHECK(text.find(" critical one 1\n") == std::string("2026-11-30T08:00:00.000").size());
    CHECK(text.find(" error two\n") != std::string::npos);
  }
}

TEST_CASE("levels below the configured one are left out") {
  CHECK(logged(Reader::journal, [] {
          daemon::log::set_level(policy::LogLevel::warning);
          write_each();
        }) == "<2>one 1\n<3>two\n<4>three\n");
}
