// SPDX-License-Identifier: GPL-2.0-or-later
// Runs the tests, or says why they cannot run here (77 is "skipped" to meson).
#define CATCH_CONFIG_RUNNER
#include <fcntl.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cerrno>
#include <cstdio>
#include <cstring>

int main(int argc, char** argv) {
  const int device = ::open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
  if (device < 0) {
    std::printf("skipped: /dev/userfaultfd: %s\n", std::strerror(errno));
    return 77;
  }
  ::close(device);
  if (argc > 0 && std::strstr(argv[0], "qemu") != nullptr &&
      ::access("/usr/bin/qemu-system-x86_64", X_OK) != 0) {
    std::printf("skipped: no qemu-system-x86_64\n");
    return 77;
  }
  return Catch::Session().run(argc, argv);
}
