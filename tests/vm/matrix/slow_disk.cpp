// SPDX-License-Identifier: GPL-2.0-or-later
// A file system whose files answer reads late and out of order: storage on which a read stays in
// flight for a while. slow_disk MOUNT DIRECTORY DELAY_MS_MAX SEED shows the files of DIRECTORY
// under MOUNT; a read takes from 0 to DELAY_MS_MAX milliseconds, drawn from SEED. Every file is
// opened with direct_io: the kernel pins the reader's pages, asks this process, and copies what it
// answers into them, as a device writes by DMA. Files are read only, though they can be opened for
// writing.
// Threads: libfuse's; the settings do not change after main() has read them.
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>

#define FUSE_USE_VERSION 31
#include <fuse.h>

namespace {

// Reads in flight at a time: four disks at QEMU's 64 threads would be more than a guest asks for.
constexpr unsigned kReadsMax = 128;
constexpr double kValidSeconds = 3600;  // nothing changes below the mount

int directory = -1;
std::uint64_t delay_us_max = 0;
std::uint64_t seed = 0;
std::atomic<std::uint64_t> reads{0};

std::uint64_t mix(std::uint64_t x) {  // splitmix64
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

const char* below(const char* path) { return path[1] == '\0' ? "." : path + 1; }

void* begin(fuse_conn_info* connection, fuse_config* config) {
  connection->max_background = kReadsMax;
  connection->congestion_threshold = kReadsMax;
  config->attr_timeout = config->entry_timeout = kValidSeconds;
  return nullptr;
}

int get_attributes(const char* path, struct stat* out, fuse_file_info*) {
  return ::fstatat(directory, below(path), out, AT_SYMLINK_NOFOLLOW) == 0 ? 0 : -errno;
}

int open_file(const char* path, fuse_file_info* file) {
  const int fd = ::openat(directory, below(path), O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
  if (fd < 0) return -errno;
  file->fh = static_cast<std::uint64_t>(fd);
  file->direct_io = 1;
  return 0;
}

int read_file(const char*, char* to, std::size_t size, off_t at, fuse_file_info* file) {
  const std::uint64_t drawn = mix(seed + reads.fetch_add(1));
  std::this_thread::sleep_for(std::chrono::microseconds(drawn % (delay_us_max + 1)));
  const ssize_t n = ::pread(static_cast<int>(file->fh), to, size, at);
  return n < 0 ? -errno : static_cast<int>(n);
}

int write_file(const char*, const char*, std::size_t, off_t, fuse_file_info*) { return -EROFS; }

int close_file(const char*, fuse_file_info* file) {
  ::close(static_cast<int>(file->fh));
  return 0;
}

int figures(const char*, struct statvfs* out) {
  return ::fstatvfs(directory, out) == 0 ? 0 : -errno;
}

fuse_operations operations() {
  fuse_operations all{};
  all.init = begin;
  all.getattr = get_attributes;
  all.open = open_file;
  all.read = read_file;
  all.write = write_file;
  all.release = close_file;
  all.statfs = figures;
  return all;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 5) return 2;
  directory = ::open(argv[2], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (directory < 0) {
    std::perror(argv[2]);
    return 1;
  }
  delay_us_max = std::strtoull(argv[3], nullptr, 10) * 1000;
  seed = std::strtoull(argv[4], nullptr, 10);
  std::string name = argv[0], foreground = "-f", option = "-o", mount = argv[1];
  std::string options = "fsname=slow_disk,max_threads=" + std::to_string(kReadsMax) +
                        ",max_idle_threads=" + std::to_string(kReadsMax);
  char* arguments[] = {name.data(),    foreground.data(), option.data(),
                       options.data(), mount.data(),      nullptr};
  const fuse_operations all = operations();
  return fuse_main(5, arguments, &all, nullptr);
}
