// SPDX-License-Identifier: GPL-2.0-or-later
// L5: the memory of a dead VM's RAM file really goes back to the host. The file lies on a tmpfs of
// its own, whose free space nobody else changes; a memfd is the same kind of file.
#include <sys/mount.h>
#include <sys/statfs.h>
#include <catch2/catch.hpp>
#include <cstdio>

#include "keeper_process.hpp"

using namespace ramfold;
using namespace ramfold::keeper;
using namespace ramfold::keeper::test;

namespace {

constexpr std::size_t kRam = 256u << 20;

class Tmpfs {
 public:
  Tmpfs() : mounted_(::mount("ramfold-test", (dir_ / "").c_str(), "tmpfs", 0, "size=1g") == 0) {}
  ~Tmpfs() {
    if (mounted_) ::umount2((dir_ / "").c_str(), MNT_DETACH);
  }
  bool mounted() const { return mounted_; }
  std::size_t used() const {
    struct statfs st{};
    REQUIRE(::statfs((dir_ / "").c_str(), &st) == 0);
    return (st.f_blocks - st.f_bfree) * static_cast<std::size_t>(st.f_bsize);
  }
  sys::Fd ram_file() const {
    sys::Fd fd(::open((dir_ / "").c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
    REQUIRE(fd);
    const std::vector<char> bytes(1u << 20, 'x');
    for (std::size_t at = 0; at < kRam; at += bytes.size()) {
      REQUIRE(::write(fd.get(), bytes.data(), bytes.size()) == static_cast<ssize_t>(bytes.size()));
    }
    return fd;
  }

 private:
  Directory dir_;
  bool mounted_;
};

// A VM dies. True: the keeper had let its RAM go and answered, and the memory was not free yet. A
// keeper whose loop frees the memory does not answer between the two, so it is never true. The
// keeper's thread may win the race, so it may be false.
bool answers_before_all_is_free(const Tmpfs& tmpfs, Client& client) {
  Child vm;
  {
    const sys::Fd ram = tmpfs.ram_file();
    REQUIRE(client.keep("1.ram0", ram));
    REQUIRE(client.watch("1.", pidfd_of(vm.pid())));
  }
  CHECK(tmpfs.used() >= kRam);
  vm.kill();
  // The name is free as soon as the keeper has let the RAM go. A list of all that it has would
  // bring a descriptor of the RAM here.
  const sys::Fd other = memfd();
  REQUIRE(eventually([&] { return client.keep("1.ram0", other).has_value(); }));
  const bool answered_before = tmpfs.used() >= kRam;
  CHECK(eventually([&] { return tmpfs.used() < kRam / 100; }));
  CHECK(client.drop("1.ram0"));
  CHECK(client.take_all()->empty());
  return answered_before;
}

}  // namespace

TEST_CASE("a dead VM's memory is freed, and nobody waits for it") {
  const Tmpfs tmpfs;
  if (!tmpfs.mounted()) {
    std::fputs("skipped: cannot mount a tmpfs here\n", stderr);
    std::exit(77);
  }
  const Directory dir;
  const KeeperProcess keeper(dir / "k");
  Client client = keeper.connect();
  constexpr int kTriesMax = 50;
  int tries = 0;
  while (!answers_before_all_is_free(tmpfs, client)) REQUIRE(++tries < kTriesMax);
}
