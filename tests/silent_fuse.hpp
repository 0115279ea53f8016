// SPDX-License-Identifier: GPL-2.0-or-later
// A FUSE file system whose server stops answering: what a hostile process makes others wait with.
// Speaks the kernel's protocol (linux/fuse.h) itself. Needs root, or a mount namespace of its own.
// Threads: a process of its own.
#pragma once

#include <fcntl.h>
#include <linux/fuse.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <new>
#include <string>

namespace ramfold::test {

// When the server falls silent: asked to flush the file, as at close(2), to write its dirty pages,
// or to read one.
enum class Silent { at_flush, at_write, at_read };

// Serves one file of a page, as long as it is not asked for the one thing.
class SilentFuse {
 public:
  explicit SilentFuse(Silent silent = Silent::at_flush) : silent_(silent) {
    const char* const below = ::getenv("TMPDIR");
    path_ = std::string(below != nullptr ? below : "/tmp") + "/ramfold-fuse-XXXXXX";
    void* const shared = ::mmap(nullptr, sizeof *unanswered_, PROT_READ | PROT_WRITE,
                                MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED) return;
    unanswered_ = new (shared) std::atomic<unsigned>(0);
    device_ = ::open("/dev/fuse", O_RDWR | O_CLOEXEC);
    if (device_ < 0 || ::mkdtemp(path_.data()) == nullptr) return;
    const std::string options =
        "fd=" + std::to_string(device_) + ",rootmode=40000,user_id=0,group_id=0";
    mounted_ =
        ::mount("ramfold-test", path_.c_str(), "fuse", MS_NOSUID | MS_NODEV, options.c_str()) == 0;
    server_ = mounted_ ? ::fork() : -1;
    if (server_ == 0) {
      ::alarm(kAliveSeconds);
      for (;;) serve();
    }
    // The server's alone: with its end all that waits is answered, also what this process waits
    // for.
    ::close(device_);
  }
  ~SilentFuse() {
    if (owner_ != ::getpid()) return;
    end();
    if (mounted_) ::umount2(path_.c_str(), MNT_DETACH);
    ::rmdir(path_.c_str());
    if (unanswered_ != nullptr) ::munmap(unanswered_, sizeof *unanswered_);
  }
  SilentFuse(const SilentFuse&) = delete;
  SilentFuse& operator=(const SilentFuse&) = delete;
  // What waits for the server is answered by the kernel, with an error.
  void end() {
    if (server_ <= 0) return;
    ::kill(server_, SIGKILL);
    ::waitpid(server_, nullptr, 0);
    server_ = -1;
  }
  bool works() const { return mounted_; }
  // Requests that the server was silent to, and whose callers wait.
  unsigned unanswered() const { return *unanswered_; }
  // -1: it cannot be opened. The caller's.
  int open_file() const { return ::open((path_ + "/f").c_str(), O_RDWR | O_CLOEXEC); }

 private:
  static constexpr unsigned kAliveSeconds = 120;  // a test that dies leaves nobody waiting for ever

  template <typename Body>
  void reply(const fuse_in_header& in, const Body& body) const {
    struct {
      fuse_out_header header;
      Body body;
    } out{};
    out.header = {.len = sizeof(fuse_out_header) + sizeof(Body), .error = 0, .unique = in.unique};
    out.body = body;
    (void)!::write(device_, &out, out.header.len);
  }

  void fail(const fuse_in_header& in, int error) const {
    const fuse_out_header out{.len = sizeof out, .error = -error, .unique = in.unique};
    (void)!::write(device_, &out, sizeof out);
  }

  void be_silent() const { ++*unanswered_; }

  void serve() const {
    alignas(8) static std::array<char, 256 * 1024> buffer;
    if (::read(device_, buffer.data(), buffer.size()) < 0 && errno != EINTR) ::_exit(0);
    fuse_in_header in;
    std::memcpy(&in, buffer.data(), sizeof in);
    fuse_attr attr{};
    attr.ino = in.nodeid;
    attr.mode = in.nodeid == FUSE_ROOT_ID ? S_IFDIR | 0755 : S_IFREG | 0666;
    attr.size = in.nodeid == FUSE_ROOT_ID ? 0 : 4096;
    attr.nlink = 1;
    switch (in.opcode) {
      case FUSE_INIT: {
        fuse_init_out out{};
        out.major = FUSE_KERNEL_VERSION;
        out.minor = 31;
        out.max_write = 4096;
        if (silent_ == Silent::at_write) out.flags = FUSE_WRITEBACK_CACHE;
        return reply(in, out);
      }
      case FUSE_LOOKUP: {
        attr.ino = 2;
        attr.mode = S_IFREG | 0666;
        attr.size = 4096;
        return reply(in, fuse_entry_out{.nodeid = 2,
                                        .generation = 1,
                                        .entry_valid = 60,
                                        .attr_valid = 60,
                                        .entry_valid_nsec = 0,
                                        .attr_valid_nsec = 0,
                                        .attr = attr});
      }
      case FUSE_GETATTR:
        return reply(
            in, fuse_attr_out{.attr_valid = 60, .attr_valid_nsec = 0, .dummy = 0, .attr = attr});
      case FUSE_OPEN: return reply(in, fuse_open_out{});
      case FUSE_READ:
        if (silent_ == Silent::at_read) return be_silent();
        return reply(in, std::array<char, 4096>{});
      case FUSE_FLUSH:
        if (silent_ == Silent::at_flush) return be_silent();
        return fail(in, ENOSYS);
      case FUSE_WRITE: return be_silent();
      case FUSE_FORGET:
      case FUSE_INTERRUPT: return;
      default: return fail(in, ENOSYS);
    }
  }

  Silent silent_;
  std::atomic<unsigned>* unanswered_ = nullptr;  // shared with the server
  int device_ = -1;
  std::string path_;
  bool mounted_ = false;
  pid_t server_ = -1;
  pid_t owner_ = ::getpid();
};

}  // namespace ramfold::test
