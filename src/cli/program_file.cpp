// SPDX-License-Identifier: GPL-2.0-or-later
#include "cli/program_file.hpp"

#include <elf.h>
#include <fcntl.h>
#include <fmt/core.h>
#include <linux/capability.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <string_view>
#include <vector>

#include "sys/fd.hpp"

namespace ramfold::cli {
namespace {

constexpr std::size_t kInterpreterMax = 4096;

struct Elf {
  unsigned char elf_class = ELFCLASSNONE;
  std::uint16_t machine = EM_NONE;
  std::string interpreter;  // empty: it needs none
};

template <typename T>
bool load(int fd, std::uint64_t offset, T& into) {
  return ::pread(fd, &into, sizeof into, static_cast<off_t>(offset)) == sizeof into;
}

template <typename Header, typename Segment>
std::optional<Elf> elf_of(int fd) {
  Header header;
  if (!load(fd, 0, header)) return std::nullopt;
  Elf elf{header.e_ident[EI_CLASS], header.e_machine, {}};
  for (std::uint64_t i = 0; i < header.e_phnum; ++i) {
    Segment segment;
    if (!load(fd, header.e_phoff + i * sizeof segment, segment)) return std::nullopt;
    if (segment.p_type != PT_INTERP) continue;
    elf.interpreter.resize(std::min<std::uint64_t>(segment.p_filesz, kInterpreterMax));
    const ssize_t n = ::pread(fd, elf.interpreter.data(), elf.interpreter.size(),
                              static_cast<off_t>(segment.p_offset));
    elf.interpreter.resize(n < 0 ? 0 : static_cast<std::size_t>(n));
  }
  return elf;
}

std::optional<Elf> elf_of(const std::string& file) {
  const sys::Fd fd(::open(file.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  unsigned char ident[EI_NIDENT];
  if (!fd || !load(fd.get(), 0, ident)) return std::nullopt;
  if (std::memcmp(ident, ELFMAG, SELFMAG) != 0) return std::nullopt;
  return ident[EI_CLASS] == ELFCLASS32 ? elf_of<Elf32_Ehdr, Elf32_Phdr>(fd.get())
                                       : elf_of<Elf64_Ehdr, Elf64_Phdr>(fd.get());
}

bool grants_capabilities(const std::string& file) {
  vfs_ns_cap_data data{};
  const ssize_t n = ::getxattr(file.c_str(), "security.capability", &data, sizeof data);
  if (n < static_cast<ssize_t>(sizeof data.magic_etc)) return false;
  if ((data.magic_etc & VFS_CAP_FLAGS_EFFECTIVE) != 0) return true;
  return std::any_of(std::begin(data.data), std::end(data.data),
                     [](const auto& words) { return words.permitted != 0; });
}

// The file that execvp would execute; empty: it finds none.
std::string found_in_path(const std::string& program) {
  if (program.find('/') != std::string::npos) return program;
  const char* path = std::getenv("PATH");
  std::string_view rest = path == nullptr ? "/bin:/usr/bin" : path;
  while (true) {
    const auto end = rest.find(':');
    std::string file(rest.substr(0, end));
    if (!file.empty()) file += '/';
    file += program;
    if (::access(file.c_str(), X_OK) == 0) return file;
    if (end == std::string_view::npos) return {};
    rest.remove_prefix(end + 1);
  }
}

// The kernel honours the file's set-id bits and capabilities: not on a nosuid mount, and not when
// this process has no_new_privs.
bool rights_count(const std::string& file) {
  struct statvfs mount{};
  const bool nosuid = ::statvfs(file.c_str(), &mount) == 0 && (mount.f_flag & ST_NOSUID) != 0;
  return !nosuid && ::prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 0;
}

}  // namespace

std::optional<NotLoaded> cannot_load(const std::string& file) {
  const auto elf = elf_of(file);
  if (!elf) return std::nullopt;
  const auto own = elf_of("/proc/self/exe");
  if (own && (elf->machine != own->machine || elf->elf_class != own->elf_class)) {
    return NotLoaded{"it is a program for another kind of processor than the agent",
                     "use a QEMU that is built as ramfold is"};
  }
  if (elf->interpreter.empty()) {
    return NotLoaded{"it is linked statically, and loads no library",
                     "use a QEMU that is linked dynamically"};
  }
  if (elf->interpreter.find("ld-musl") != std::string::npos) {
    return NotLoaded{"it is linked against musl, and the agent against glibc",
                     "use a QEMU that is linked against glibc"};
  }
  return std::nullopt;
}

std::optional<NotLoaded> has_rights(const std::string& at, const std::string& file) {
  if (grants_capabilities(at)) {
    return NotLoaded{
        "its file has capabilities, and then the loader ignores LD_PRELOAD",
        fmt::format("take them away (`setcap -r {}`); what QEMU needs of them its starter can "
                    "give it (AmbientCapabilities= of a unit)",
                    file)};
  }
  struct stat facts{};
  if (::stat(at.c_str(), &facts) != 0) return std::nullopt;
  const bool set_group = (facts.st_mode & (S_ISGID | S_IXGRP)) == (S_ISGID | S_IXGRP);
  if ((facts.st_mode & S_ISUID) != 0 || set_group) {
    return NotLoaded{"its file is setuid or setgid, and then the loader ignores LD_PRELOAD",
                     fmt::format("start it as the user it is to run as, without that "
                                 "(`chmod u-s,g-s {}`)",
                                 file)};
  }
  return std::nullopt;
}

std::optional<NotLoaded> why_not_loaded(const std::string& program) {
  const std::string file = found_in_path(program);
  if (file.empty()) return std::nullopt;
  if (auto never = cannot_load(file)) return never;
  if (!elf_of(file) || !rights_count(file)) return std::nullopt;
  // A file's capabilities give root nothing, and a setuid file gives its owner nothing.
  struct stat facts{};
  if (::stat(file.c_str(), &facts) != 0) return std::nullopt;
  const bool other_user = (facts.st_mode & S_ISUID) != 0 && facts.st_uid != ::getuid();
  const bool other_group = (facts.st_mode & S_ISGID) != 0 && facts.st_gid != ::getgid();
  const bool capable = ::getuid() != 0 && grants_capabilities(file);
  if (!other_user && !other_group && !capable) return std::nullopt;
  return has_rights(file, file);
}

}  // namespace ramfold::cli
