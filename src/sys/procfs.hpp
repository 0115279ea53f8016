// SPDX-License-Identifier: GPL-2.0-or-later
// Every parser of /proc and /sys files, over a root directory, so that tests run it on a tree of
// their own without privilege. proc(5), Documentation/filesystems/proc.rst,
// Documentation/admin-guide/cgroup-v2.rst.
//
// What is read belongs to processes that may be hostile: every list and file has a bound (below),
// and a list that passes it ends as Seen::too_many. A process that ends while it is read is
// Seen::gone, never an error. No file that a process holds open is opened here; statx and statfs
// only ask about it. A file system that might not answer (FUSE, a network) is recognised by its
// mount, before it is asked.
//
// Threads: immutable; any thread may call it. Values returned are the caller's.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.hpp"
#include "base/types.hpp"

namespace ramfold::sys {

// Twice vm.max_map_count's default; a larger limit than that is not a QEMU's.
inline constexpr std::size_t kMappingsMax = 131'072;
// QEMU uses two or three for a vCPU and a few for a queue.
inline constexpr std::size_t kDescriptorsMax = 65'536;
inline constexpr std::size_t kThreadsMax = 16'384;
inline constexpr std::size_t kProcessesMax = 4'194'304;  // PID_MAX_LIMIT
inline constexpr std::size_t kMountsMax = 65'536;
inline constexpr ByteCount kSmallFileMax{64 * 1024};  // status, stat, cgroup, fdinfo, ...
inline constexpr ByteCount kCmdlineMax{1024 * 1024};  // libvirt's are 5-20 KiB

enum class Seen : std::uint8_t { all, gone, too_many, denied, failed };
// The same as a Result's errno: ESRCH, E2BIG, EACCES, EIO.
int errno_of(Seen seen) noexcept;
Seen seen_of(int code) noexcept;

struct MapEntry {
  HostVirt begin;
  HostVirt end;
  bool readable = false;
  bool writable = false;
  bool executable = false;
  bool shared = false;
  std::uint64_t offset = 0;  // bytes into the file
  dev_t device = 0;
  ino_t inode = 0;
  std::string_view
      path;  // valid during the call it is passed to; a deleted file ends in " (deleted)"
};
struct FdEntry {
  int number = -1;
  std::string_view link;  // valid during the call, at most 4095 bytes: "/dev/null", "socket:[123]"
};
// A visitor returns false to stop early (which is still Seen::all).
using MapVisitor = std::function<bool(const MapEntry&)>;
using SmapVisitor = std::function<bool(const MapEntry&, std::string_view vm_flags)>;
using FdVisitor = std::function<bool(const FdEntry&)>;

struct FdInfo {
  unsigned flags = 0;  // as open(2), O_DIRECT and the access mode among them
  int mount = -1;      // mnt_id; 0 for the kernel's own mounts
};
struct FileStat {
  mode_t mode = 0;
  dev_t device = 0;  // st_dev
  ino_t inode = 0;
  dev_t special = 0;  // st_rdev
};
struct ProcessStatus {
  uid_t uid = 0;
  uid_t effective_uid = 0;
  pid_t parent = 0;
  ByteCount locked;       // VmLck
  ByteCount pinned;       // VmPin
  ByteCount page_tables;  // VmPTE
  ByteCount resident;     // VmRSS
  ByteCount anonymous;    // RssAnon
  std::uint32_t threads = 0;
  bool has_memory = false;  // kernel threads and zombies have none
};
// One thread.
struct TaskState {
  pid_t id = -1;
  std::string name;    // at most 15 bytes
  bool ended = false;  // a zombie, or exiting: no system call of it is under way
  bool dying = false;  // or SIGKILL is pending: it makes no further system call
};
// Mount id to file system type, e.g. "ext4", "fuse.sshfs".
using Mounts = std::map<int, std::string>;

// A memory cgroup with a limit.
struct LimitedCgroup {
  std::string path;    // its directory
  ByteCount headroom;  // may still be charged to it, with inactive file cache counted as free
};
struct MemInfo {
  ByteCount total;
  ByteCount free;
  ByteCount available;
  ByteCount shmem;
  ByteCount swap_total;
  ByteCount swap_free;
  ByteCount disk_swap_free;  // without swap on zram, which is RAM itself
  ByteCount page_tables;
};
// Share of wall time, in per mille, in the last 10 and 60 s, and the total of stalled microseconds.
struct Pressure {
  std::uint32_t some_10s_permille = 0;
  std::uint32_t some_60s_permille = 0;
  std::uint32_t full_10s_permille = 0;
  std::uint64_t some_total_us = 0;
};
struct KernelVersion {
  unsigned major = 0;
  unsigned minor = 0;
  std::string text;  // osrelease
  bool at_least(unsigned want_major, unsigned want_minor) const noexcept {
    return major != want_major ? major > want_major : minor >= want_minor;
  }
};
// When the kernel makes large folios of shared memory: the chosen words of every shmem_enabled.
struct ShmemHuge {
  bool possible = false;  // some setting is not never/deny
  bool forced = false;    // "force": even where the mapping asked for none
  std::string text;       // "shmem_enabled=never hugepages-2048kB=inherit ..."
};

class Procfs {
 public:
  // `root` is "" for the real one.
  explicit Procfs(std::string root = {});
  virtual ~Procfs() = default;
  Procfs(const Procfs&) = delete;
  Procfs& operator=(const Procfs&) = delete;

  // One process. A Result's error code is ESRCH when the process is gone, E2BIG when there is too
  // much.
  Seen mappings(pid_t pid, const MapVisitor& visit) const;
  // The same with each mapping's VmFlags ("rd wr sh ..."). Walks the page tables of every mapping.
  Seen smaps(pid_t pid, const SmapVisitor& visit) const;
  Seen descriptors(pid_t pid, const FdVisitor& visit) const;
  Seen thread_ids(pid_t pid, const std::function<bool(pid_t)>& visit) const;
  // All threads of a process, also of one whose first thread has ended.
  Seen tasks(pid_t pid, const std::function<bool(const TaskState&)>& visit) const;
  Result<FdInfo> fd_info(pid_t pid, int fd) const;
  // Type and identity of a descriptor's file, as the kernel knows them: a network file system is
  // not asked.
  virtual Result<FileStat> fd_stat(pid_t pid, int fd) const;
  // statfs's f_type of the file system behind a descriptor. It can block on a dead network mount.
  // REQUIRES: neither mounts() nor own_mounts() lists the descriptor's mount.
  virtual Result<std::uint64_t> fd_filesystem(pid_t pid, int fd) const;
  Result<ProcessStatus> status(pid_t pid) const;
  // Start time in clock ticks since boot. Pid and start time together are never used twice. ESRCH
  // also for a process that has ended but was not waited for.
  Result<std::uint64_t> start_ticks(pid_t pid) const;
  Result<std::string> command(pid_t pid) const;                 // comm
  Result<std::vector<std::string>> arguments(pid_t pid) const;  // cmdline
  Result<Mounts> mounts(pid_t pid) const;                       // of its mount namespace
  Result<Mounts> own_mounts() const;
  // Its memory cgroups that have a limit (v1 or v2, all ancestors), the innermost first. Empty: no
  // limit.
  Result<std::vector<LimitedCgroup>> limited_cgroups(pid_t pid) const;

  // All processes, in the kernel's order.
  Seen processes(const std::function<bool(pid_t)>& visit) const;

  // A character device's kernel name ("kvm", "net/tun", "vfio/12"), by its number.
  Result<std::string> device_name(dev_t special) const;
  Result<MemInfo> memory_info() const;
  // Free swap on devices that are not zram (procfs_swap.cpp); 0 where /proc/swaps cannot be read.
  ByteCount disk_swap_free() const;
  Result<Pressure> memory_pressure() const;
  // How many mappings a process may have: vm.max_map_count.
  Result<std::uint64_t> mappings_max() const;
  Result<KernelVersion> kernel_version() const;
  // The kernel describes its types to BPF programs.
  bool describes_types() const;
  // "none", "integrity" or "confidentiality".
  std::string lockdown() const;
  Result<ShmemHuge> shmem_huge() const;
  // Large folios of shared memory that the host has made since its start, of all sizes; 0 where
  // nothing counts them: such kernels make none.
  std::uint64_t large_shmem_folios_made() const;
  // sys/large_folios.hpp
  virtual Result<bool> has_large_folio(pid_t pid, HostVirt start, ByteCount size) const;

 private:
  std::string path_of(pid_t pid, std::string_view file) const;
  Result<std::string> read_process_file(pid_t pid, std::string_view file, ByteCount max) const;

  std::string root_;
};

// The name of the file behind a descriptor of this process: "/memfd:x (deleted)",
// "anon_inode:[userfaultfd]". The kernel answers by itself; no file system is asked.
Result<std::string> own_link(int fd);

// The parsers of single lines, for tests and fuzzing. `line` has no newline.
std::optional<MapEntry> parse_map_line(std::string_view line) noexcept;
std::optional<FdInfo> parse_fd_info(std::string_view text) noexcept;
// /proc/PID/task/TID/stat and status.
std::optional<TaskState> parse_task(std::string_view stat, std::string_view status);
// A line of /proc/swaps: the path as it is, and what is free. Nothing for the heading.
struct SwapArea {
  std::string path;
  ByteCount free;
};
std::optional<SwapArea> parse_swap_line(std::string_view line);
std::optional<KernelVersion> parse_kernel_version(std::string_view text);

}  // namespace ramfold::sys
