// SPDX-License-Identifier: GPL-2.0-or-later
// A file system with one file, `slow`, opened FOPEN_DIRECT_IO (D2): the kernel pins the reader's
// pages, asks this process, and writes what it answers into them, as a device would by DMA. The
// answer takes its time.
// slow_fuse DIRECTORY DELAY_MS; prints "ready" once mounted. Speaks the kernel's protocol
// (linux/fuse.h) itself, so that no library is needed.
// Threads: one reads requests; each read waits and answers on a thread of its own.
#include <fcntl.h>
#include <linux/fuse.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "page_content.hpp"

namespace {

constexpr std::uint64_t kFileNode = 2;
constexpr std::uint64_t kFileSize = storm::kFileBlocks * storm::kPage;
constexpr std::uint64_t kValidSeconds = 3600;

int device = -1;
useconds_t delay_us = 0;

void reply(std::uint64_t unique, int error, const void* body, std::size_t size) {
  fuse_out_header header{static_cast<std::uint32_t>(sizeof header + size), -error, unique};
  const std::array parts{iovec{&header, sizeof header}, iovec{const_cast<void*>(body), size}};
  // A reader that was killed takes no answer: ENOENT.
  [[maybe_unused]] const auto n = ::writev(device, parts.data(), size == 0 ? 1 : 2);
}

template <typename Body>
void reply(std::uint64_t unique, const Body& body) {
  reply(unique, 0, &body, sizeof body);
}

fuse_attr attributes(std::uint64_t node) {
  fuse_attr a{};
  a.ino = node;
  a.mode = node == kFileNode ? S_IFREG | 0644 : S_IFDIR | 0755;
  a.nlink = 1;
  a.size = node == kFileNode ? kFileSize : 0;
  a.blksize = storm::kPage;
  return a;
}

void answer_read(std::uint64_t unique, fuse_read_in in) {
  ::usleep(delay_us);
  std::vector<std::byte> bytes;
  storm::Page block;
  while (bytes.size() < in.size && in.offset + bytes.size() < kFileSize) {
    const std::uint64_t at = in.offset + bytes.size();
    storm::fill_file_block(static_cast<std::uint32_t>(at / storm::kPage), block);
    const auto* from = reinterpret_cast<const std::byte*>(block.data());
    const std::uint64_t skip = at % storm::kPage;
    const std::uint64_t n = std::min(storm::kPage - skip, in.size - bytes.size());
    bytes.insert(bytes.end(), from + skip, from + skip + n);
  }
  reply(unique, 0, bytes.data(), bytes.size());
}

void init(std::uint64_t unique, const fuse_init_in& in) {
  fuse_init_out out{};
  out.major = FUSE_KERNEL_VERSION;
  out.minor = std::min<std::uint32_t>(in.minor, FUSE_KERNEL_MINOR_VERSION);
  out.max_readahead = in.max_readahead;
  out.max_background = 64;
  out.congestion_threshold = 48;
  out.max_write = 128 << 10;
  out.time_gran = 1;
  reply(unique, out);
}

void handle(const fuse_in_header& h, const std::byte* body) {
  switch (h.opcode) {
    case FUSE_INIT: {
      fuse_init_in in{};
      std::memcpy(&in, body, std::min(sizeof in, h.len - sizeof h));
      return init(h.unique, in);
    }
    case FUSE_LOOKUP: {
      if (std::strcmp(reinterpret_cast<const char*>(body), "slow") != 0)
        return reply(h.unique, ENOENT, nullptr, 0);
      fuse_entry_out out{};
      out.nodeid = kFileNode;
      out.attr_valid = out.entry_valid = kValidSeconds;
      out.attr = attributes(kFileNode);
      return reply(h.unique, out);
    }
    case FUSE_GETATTR: {
      fuse_attr_out out{};
      out.attr_valid = kValidSeconds;
      out.attr = attributes(h.nodeid);
      return reply(h.unique, out);
    }
    case FUSE_OPEN:
    case FUSE_OPENDIR: {
      fuse_open_out out{};
      out.open_flags = h.opcode == FUSE_OPEN ? FOPEN_DIRECT_IO : 0;
      return reply(h.unique, out);
    }
    case FUSE_READ: {
      fuse_read_in in{};
      std::memcpy(&in, body, sizeof in);
      std::thread(answer_read, h.unique, in).detach();
      return;
    }
    case FUSE_FLUSH:
    case FUSE_RELEASE:
    case FUSE_RELEASEDIR: return reply(h.unique, 0, nullptr, 0);
    case FUSE_FORGET:
    case FUSE_BATCH_FORGET:
    case FUSE_INTERRUPT: return;  // these have no answer
    default: return reply(h.unique, ENOSYS, nullptr, 0);
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  delay_us = static_cast<useconds_t>(std::strtoul(argv[2], nullptr, 10) * 1000);
  device = ::open("/dev/fuse", O_RDWR | O_CLOEXEC);
  const std::string data =
      "fd=" + std::to_string(device) + ",rootmode=40000,user_id=0,group_id=0,allow_other";
  if (device < 0 ||
      ::mount("slow", argv[1], "fuse.slow", MS_NOSUID | MS_NODEV, data.c_str()) != 0) {
    std::printf("no FUSE: %s\n", std::strerror(errno));
    return 1;
  }
  std::printf("ready\n");
  std::fflush(stdout);
  alignas(fuse_in_header) static std::array<std::byte, 256 << 10> request;
  for (;;) {
    const ssize_t n = ::read(device, request.data(), request.size());
    if (n < 0 && (errno == EINTR || errno == EAGAIN || errno == ENOENT)) continue;
    if (n < static_cast<ssize_t>(sizeof(fuse_in_header))) return 0;  // unmounted
    fuse_in_header header{};
    std::memcpy(&header, request.data(), sizeof header);
    handle(header, request.data() + sizeof header);
  }
}
