// SPDX-License-Identifier: GPL-2.0-or-later
#include "keeper/table.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <catch2/catch.hpp>

using namespace ramfold;
using namespace ramfold::keeper;

namespace {

sys::Fd memfd() { return sys::Fd(::memfd_create("table_test", MFD_CLOEXEC)); }
sys::Fd uffd() {
  return sys::Fd(static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK)));
}
sys::Fd pidfd_of(pid_t pid) { return sys::Fd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0))); }
sys::Fd copy_of(const sys::Fd& fd) { return fd.duplicate().value(); }

int keep(Table& table, Kind kind, std::string_view name, sys::Fd fd) {
  const Item item{kind, name};
  const auto added = table.keep({&item, 1}, {&fd, 1});
  return added ? 0 : added.error().code;
}
int keep(Table& table, std::string_view name, sys::Fd fd) {
  return keep(table, Kind::kept, name, std::move(fd));
}
void ignore(Entry&) {}

}  // namespace

TEST_CASE("the same name stays with the same file and is refused to another") {
  Table table(10);
  const sys::Fd a = memfd();
  REQUIRE(keep(table, "a", copy_of(a)) == 0);
  CHECK(keep(table, "a", copy_of(a)) == 0);
  const std::string path = "/proc/self/fd/" + std::to_string(a.get());
  CHECK(keep(table, "a", sys::Fd(::open(path.c_str(), O_RDWR | O_CLOEXEC))) == 0);
  CHECK(keep(table, "a", sys::Fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC))) == EEXIST);
  CHECK(keep(table, "a", memfd()) == EEXIST);
  CHECK(table.size() == 1);
}

TEST_CASE("userfaultfds share an inode and are told apart all the same") {
  Table table(10);
  const sys::Fd one = uffd();
  REQUIRE(one);
  REQUIRE(keep(table, "1.uffd", copy_of(one)) == 0);
  CHECK(keep(table, "1.uffd", copy_of(one)) == 0);
  CHECK(keep(table, "1.uffd", uffd()) == EEXIST);
  CHECK(keep(table, "2.uffd", uffd()) == 0);
  CHECK(keep(table, "3.uffd", copy_of(one)) == EEXIST);  // one open file, one name
}

TEST_CASE("a set is kept whole or not at all") {
  Table table(10);
  REQUIRE(keep(table, "b", memfd()) == 0);
  const std::array items{Item{Kind::kept, "a"}, Item{Kind::kept, "b"}};
  std::array fds{memfd(), memfd()};
  const auto added = table.keep(items, fds);
  REQUIRE_FALSE(added);
  CHECK(added.error().code == EEXIST);
  CHECK(table.size() == 1);
  CHECK(fds[0]);
  const std::array twice{Item{Kind::kept, "c"}, Item{Kind::kept, "c"}};
  CHECK(table.keep(twice, fds).error().code == EINVAL);
  const std::array names{Item{Kind::kept, "c"}, Item{Kind::kept, "d"}};
  std::array same{copy_of(fds[0]), copy_of(fds[0])};
  CHECK(table.keep(names, same).error().code == EINVAL);
  CHECK(table.size() == 1);
}

TEST_CASE("entries and bytes of names are bounded, and dropping makes room") {
  Table few(2);
  CHECK(keep(few, "a", memfd()) == 0);
  CHECK(keep(few, "b", memfd()) == 0);
  CHECK(keep(few, "c", memfd()) == ENOSPC);
  CHECK(few.drop("a", ignore) == 1);
  CHECK(keep(few, "c", memfd()) == 0);

  Table table(kHeldMax);
  const auto name = [](std::size_t i) {
    std::string number = std::to_string(i);
    return "x." + std::string(kNameMax - 2 - number.size(), '0') + number;
  };
  std::size_t i = 0;
  for (int code = 0; code == 0; ++i) {
    code = keep(table, name(i), memfd());
    if (code != 0) CHECK(code == ENOSPC);
  }
  CHECK(table.size() == kNameBytesMax / (kNameMax + 3));
  CHECK(table.drop_prefix("x.", ignore) == kNameBytesMax / (kNameMax + 3));
  CHECK(keep(table, name(0), memfd()) == 0);
}

TEST_CASE("a prefix drops its own names and watches, not its neighbour's") {
  Table table(10);
  REQUIRE(keep(table, "1.a", memfd()) == 0);
  REQUIRE(keep(table, "10.a", memfd()) == 0);
  REQUIRE(keep(table, Kind::watch, "1.", pidfd_of(::getpid())) == 0);
  std::vector<std::string> gone;
  CHECK(table.drop_prefix("1.", [&](Entry& e) { gone.emplace_back(e.name()); }) == 2);
  CHECK(gone == std::vector<std::string>{"1.a", "1."});
  REQUIRE(table.size() == 1);
  CHECK(table.entries()[0].name() == "10.a");
  CHECK(table.drop("1.a", ignore) == 0);
}

TEST_CASE("a watch goes by the process, and only a living one") {
  Table table(10);
  CHECK(keep(table, Kind::watch, "1.", memfd()) == EINVAL);
  CHECK(keep(table, Kind::watch, "1.", pidfd_of(::getpid())) == 0);
  CHECK(keep(table, Kind::watch, "1.", pidfd_of(::getpid())) == 0);
  CHECK(keep(table, Kind::watch, "1.", pidfd_of(::getppid())) == EEXIST);
  const pid_t child = ::fork();
  if (child == 0) ::_exit(0);
  const sys::Fd dead = pidfd_of(child);
  siginfo_t info{};
  REQUIRE(::waitid(P_PID, static_cast<id_t>(child), &info, WEXITED | WNOWAIT) == 0);
  CHECK(keep(table, Kind::watch, "2.", copy_of(dead)) == ESRCH);  // a zombie has ended
  ::waitpid(child, nullptr, 0);
  CHECK(keep(table, Kind::watch, "2.", copy_of(dead)) == ESRCH);
  CHECK(table.size() == 1);
}

TEST_CASE("entries are walked by key, also when the last one has gone") {
  Table table(10);
  for (const char* name : {"c", "a", "b"}) REQUIRE(keep(table, name, memfd()) == 0);
  REQUIRE(keep(table, Kind::watch, "a.", pidfd_of(::getpid())) == 0);
  const auto names_after = [&](Kind kind, std::string_view name) {
    std::string all;
    for (const Entry& e : table.entries_after(kind, name)) all += std::string(e.name()) + " ";
    return all;
  };
  CHECK(names_after(Kind::kept, "") == "a b c a. ");
  CHECK(names_after(Kind::kept, "a") == "b c a. ");
  CHECK(names_after(Kind::kept, "aa") == "b c a. ");
  CHECK(names_after(Kind::kept, "c") == "a. ");
  CHECK(names_after(Kind::watch, "a.").empty());
  CHECK(table.watches().size() == 1);
}
