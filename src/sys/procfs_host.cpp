// SPDX-License-Identifier: GPL-2.0-or-later
// The part of Procfs that reads about the host: mounts, cgroups, memory, kernel.
#include <dirent.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <memory>

#include "sys/large_folios.hpp"
#include "sys/procfs.hpp"
#include "sys/procfs_text.hpp"

namespace ramfold::sys {
namespace {

// Nobody nests cgroups deeper than this.
constexpr std::size_t kCgroupDepthMax = 64;
// v1 says "no limit" as the largest whole number of pages.
constexpr std::uint64_t kCgroupUnlimited = std::uint64_t{1} << 62;

struct CloseDir {
  void operator()(DIR* dir) const noexcept { ::closedir(dir); }
};

// One line of mountinfo: id parent major:minor root point options [optional...] - type source
// super.
struct Mount {
  int id = -1;
  std::string_view root;
  std::string_view point;
  std::string_view type;
  std::string_view super_options;
};

std::optional<Mount> parse_mount(std::string_view line) {
  Mount mount;
  const auto id = text::number<int>(text::word(line));
  if (!id) return std::nullopt;
  mount.id = *id;
  text::word(line);
  text::word(line);
  mount.root = text::word(line);
  mount.point = text::word(line);
  const std::size_t dash = line.find(" - ");
  if (dash == std::string_view::npos) return std::nullopt;
  line.remove_prefix(dash + 3);
  mount.type = text::word(line);
  text::word(line);
  mount.super_options = text::word(line);
  return mount;
}

template <typename Each>
Status for_each_mount(const std::string& path, Each&& each) {
  auto lines = text::LineReader::open(path);
  if (!lines) return std::unexpected(std::move(lines.error()));
  for (std::size_t count = 0;; ++count) {
    const auto line = lines->next();
    if (!line) return std::unexpected(line.error());
    if (!*line) return {};
    if (count == kMountsMax) return fail("too many mounts to check", E2BIG);
    if (const auto mount = parse_mount(**line)) each(*mount);
  }
}

Result<Mounts> mounts_in(const std::string& path) {
  Mounts mounts;
  Status status = for_each_mount(
      path, [&](const Mount& mount) { mounts.insert_or_assign(mount.id, mount.type); });
  if (!status) {
    if (status.error().code == ENOENT) status.error().code = ESRCH;
    return std::unexpected(std::move(status.error()));
  }
  return mounts;
}

bool has_option(std::string_view options, std::string_view wanted) noexcept {
  while (!options.empty()) {
    if (text::before(options, ',') == wanted) return true;
  }
  return false;
}

// The names of a memory cgroup's files.
struct CgroupFiles {
  std::string_view limit;
  std::string_view usage;
  std::string_view inactive;  // key in memory.stat
};
constexpr CgroupFiles kVersion1{"memory.limit_in_bytes", "memory.usage_in_bytes",
                                "total_inactive_file"};
constexpr CgroupFiles kVersion2{"memory.max", "memory.current", "inactive_file"};

struct CgroupMount {
  std::string root;   // the cgroup that is mounted
  std::string point;  // where
};

std::optional<std::uint64_t> read_number(const std::string& path) {
  const auto content = text::read_file(path, kSmallFileMax);
  if (!content) return std::nullopt;
  std::string_view rest = *content;
  return text::number<std::uint64_t>(text::word(rest));
}

// Bytes that one cgroup still allows; nothing when it has no limit ("max" is no number).
std::optional<std::uint64_t> headroom_of(const std::string& cgroup, const CgroupFiles& files) {
  const auto limit = read_number(cgroup + "/" + std::string(files.limit));
  if (!limit || *limit >= kCgroupUnlimited) return std::nullopt;
  std::uint64_t used = read_number(cgroup + "/" + std::string(files.usage)).value_or(*limit);
  const auto stat = text::read_file(cgroup + "/memory.stat", kSmallFileMax);
  if (stat) {
    for (std::string_view rest = *stat; !rest.empty();) {
      std::string_view line = text::before(rest, '\n');
      if (text::word(line) != files.inactive) continue;
      used -= std::min(used, text::number<std::uint64_t>(text::word(line)).value_or(0));
      break;
    }
  }
  return *limit - std::min(*limit, used);
}

// Per mille of "0.52".
std::uint32_t permille(std::string_view percent) noexcept {
  const std::uint32_t whole = text::number<std::uint32_t>(text::before(percent, '.')).value_or(0);
  const auto tenths = text::number<std::uint32_t>(percent.substr(0, 1)).value_or(0);
  return std::min<std::uint32_t>(whole, 100) * 10 + tenths;
}

bool is_off(std::string_view choice) noexcept {
  return choice.empty() || choice == "never" || choice == "deny";
}

}  // namespace

Result<Mounts> Procfs::mounts(pid_t pid) const { return mounts_in(path_of(pid, "mountinfo")); }
Result<Mounts> Procfs::own_mounts() const { return mounts_in(root_ + "/proc/self/mountinfo"); }

Result<std::vector<LimitedCgroup>> Procfs::limited_cgroups(pid_t pid) const {
  const auto groups = read_process_file(pid, "cgroup", kSmallFileMax);
  if (!groups) return std::unexpected(groups.error());
  std::optional<CgroupMount> version1;
  std::optional<CgroupMount> version2;
  const Status status = for_each_mount(root_ + "/proc/self/mountinfo", [&](const Mount& mount) {
    if (mount.type == "cgroup2") {
      version2 = CgroupMount{std::string(mount.root), root_ + std::string(mount.point)};
    } else if (mount.type == "cgroup" && has_option(mount.super_options, "memory")) {
      version1 = CgroupMount{std::string(mount.root), root_ + std::string(mount.point)};
    }
  });
  if (!status) return std::unexpected(status.error());

  std::vector<LimitedCgroup> limited;
  for (std::string_view rest = *groups; !rest.empty();) {
    std::string_view path = text::before(rest, '\n');
    const std::string_view hierarchy = text::before(path, ':');
    const std::string_view controllers = text::before(path, ':');
    const bool is_2 = hierarchy == "0" && controllers.empty();
    if (!is_2 && !has_option(controllers, "memory")) continue;
    const auto& mount = is_2 ? version2 : version1;
    if (!mount) continue;  // a hierarchy that is not mounted shows no limits
    if (path.find("/..") != std::string_view::npos) {
      return fail("the VM's cgroup lies outside this daemon's cgroup namespace", EXDEV);
    }
    if (mount->root != "/" && path.starts_with(mount->root)) path.remove_prefix(mount->root.size());
    for (std::size_t depth = 0; depth < kCgroupDepthMax; ++depth) {
      while (path.ends_with('/')) path.remove_suffix(1);
      std::string cgroup = mount->point + std::string(path);
      if (const auto headroom = headroom_of(cgroup, is_2 ? kVersion2 : kVersion1))
        limited.push_back({std::move(cgroup), ByteCount{*headroom}});
      if (path.empty()) break;
      path = path.substr(0, path.rfind('/'));
    }
  }
  return limited;
}

Result<std::string> Procfs::device_name(dev_t special) const {
  const auto uevent = text::read_file(root_ + "/sys/dev/char/" + std::to_string(major(special)) +
                                          ":" + std::to_string(minor(special)) + "/uevent",
                                      kSmallFileMax);
  if (!uevent) return std::unexpected(uevent.error());
  const auto name = text::value_of(*uevent, "DEVNAME=");
  if (!name) return fail("a character device without a name", ENOENT);
  return std::string(*name);
}

Result<MemInfo> Procfs::memory_info() const {
  const auto content = text::read_file(root_ + "/proc/meminfo", kSmallFileMax);
  if (!content) return std::unexpected(content.error());
  const MemInfo info{.total = text::kilobytes_of(*content, "MemTotal:"),
                     .free = text::kilobytes_of(*content, "MemFree:"),
                     .available = text::kilobytes_of(*content, "MemAvailable:"),
                     .shmem = text::kilobytes_of(*content, "Shmem:"),
                     .swap_total = text::kilobytes_of(*content, "SwapTotal:"),
                     .swap_free = text::kilobytes_of(*content, "SwapFree:"),
                     .disk_swap_free = disk_swap_free(),
                     .page_tables = text::kilobytes_of(*content, "PageTables:")};
  if (info.total.value == 0) return fail("/proc/meminfo is not understood", EIO);
  return info;
}

Result<Pressure> Procfs::memory_pressure() const {
  const auto content = text::read_file(root_ + "/proc/pressure/memory", kSmallFileMax);
  if (!content) return std::unexpected(content.error());
  Pressure pressure;
  for (std::string_view rest = *content; !rest.empty();) {
    std::string_view line = text::before(rest, '\n');
    const bool some = text::word(line) == "some";
    for (std::string_view item = text::word(line); !item.empty(); item = text::word(line)) {
      const std::string_view key = text::before(item, '=');
      if (key == "avg10")
        (some ? pressure.some_10s_permille : pressure.full_10s_permille) = permille(item);
      if (key == "avg60" && some) pressure.some_60s_permille = permille(item);
      if (key == "total" && some) {
        pressure.some_total_us = text::number<std::uint64_t>(item).value_or(0);
      }
    }
  }
  return pressure;
}

Result<std::uint64_t> Procfs::mappings_max() const {
  const std::string path = root_ + "/proc/sys/vm/max_map_count";
  const auto most = read_number(path);
  if (!most) return fail("read " + path, EIO);
  return *most;
}

std::optional<KernelVersion> parse_kernel_version(std::string_view content) {
  std::string_view rest = content;
  const std::string_view release = text::word(rest);
  std::string_view numbers = release.substr(0, release.find_first_not_of("0123456789."));
  const auto major_number = text::number<unsigned>(text::before(numbers, '.'));
  const auto minor_number = text::number<unsigned>(text::before(numbers, '.'));
  if (!major_number || !minor_number) return std::nullopt;
  return KernelVersion{*major_number, *minor_number, std::string(release)};
}

Result<KernelVersion> Procfs::kernel_version() const {
  const auto content = text::read_file(root_ + "/proc/sys/kernel/osrelease", kSmallFileMax);
  if (!content) return std::unexpected(content.error());
  auto version = parse_kernel_version(*content);
  if (!version) return fail("the kernel's version is not understood: " + *content, EIO);
  return *std::move(version);
}

bool Procfs::describes_types() const {
  return ::access((root_ + "/sys/kernel/btf/vmlinux").c_str(), F_OK) == 0;
}

std::string Procfs::lockdown() const {
  const auto content = text::read_file(root_ + "/sys/kernel/security/lockdown", kSmallFileMax);
  return content ? std::string(text::chosen(*content)) : "none";
}

Result<ShmemHuge> Procfs::shmem_huge() const {
  const std::string base = root_ + "/sys/kernel/mm/transparent_hugepage/";
  const auto global = text::read_file(base + "shmem_enabled", kSmallFileMax);
  if (!global) {
    if (global.error().code == ENOENT) return ShmemHuge{};  // a kernel without large folios
    return std::unexpected(global.error());
  }
  const std::string overall(text::chosen(*global));
  ShmemHuge huge{.possible = !is_off(overall),
                 .forced = overall == "force",
                 .text = "shmem_enabled=" + overall};
  if (overall == "deny") return huge;  // stronger than the settings of single sizes
  const std::unique_ptr<DIR, CloseDir> dir(::opendir(base.c_str()));
  if (!dir) return huge;
  std::vector<std::string> sizes;
  while (const dirent* entry = ::readdir(dir.get())) {
    if (std::string_view(entry->d_name).starts_with("hugepages-"))
      sizes.emplace_back(entry->d_name);
  }
  std::ranges::sort(sizes);
  bool any = sizes.empty() ? huge.possible : huge.forced;
  for (const std::string& size : sizes) {
    const auto content = text::read_file(base + size + "/shmem_enabled", kSmallFileMax);
    if (!content) {
      any = any || huge.possible;  // before Linux 6.10 the overall setting holds for all sizes
      continue;
    }
    const std::string_view choice = text::chosen(*content);
    if (choice == "inherit" ? huge.possible : !is_off(choice)) any = true;
    if (choice != "never") huge.text += " " + size + "=" + std::string(choice);
  }
  huge.possible = any;
  return huge;
}

std::uint64_t Procfs::large_shmem_folios_made() const {
  std::uint64_t made = 0;
  const auto add = [&](std::string_view text) {
    const std::string_view digits = text::word(text);
    std::uint64_t n = 0;
    (void)std::from_chars(digits.data(), digits.data() + digits.size(), n);
    made += n;
  };
  if (const auto vmstat = text::read_file(root_ + "/proc/vmstat", kSmallFileMax)) {
    if (const auto value = text::value_of(*vmstat, "thp_file_alloc")) add(*value);
  }
  const std::string base = root_ + "/sys/kernel/mm/transparent_hugepage/";
  const std::unique_ptr<DIR, CloseDir> dir(::opendir(base.c_str()));
  while (const dirent* entry = dir ? ::readdir(dir.get()) : nullptr) {
    if (!std::string_view(entry->d_name).starts_with("hugepages-")) continue;
    const auto count = text::read_file(base + entry->d_name + "/stats/shmem_alloc", kSmallFileMax);
    if (count) add(*count);
  }
  return made;
}

Result<bool> Procfs::has_large_folio(pid_t pid, HostVirt start, ByteCount size) const {
  return sys::has_large_folio(pid, {start, size});
}

}  // namespace ramfold::sys
