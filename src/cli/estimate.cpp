// SPDX-License-Identifier: GPL-2.0-or-later
#include "cli/estimate.hpp"

#include <fmt/core.h>
#include <unistd.h>

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>

#include "cli/progress.hpp"
#include "cli/qemu_process.hpp"
#include "cli/render.hpp"
#include "control/view_json.hpp"
#include "estimate/census.hpp"
#include "estimate/process_ram.hpp"
#include "estimate/ram_dump.hpp"

namespace ramfold::cli {
namespace {

constexpr const char* kUse =
    "give the pid of a running QEMU (`pgrep -a qemu` lists them) or the file of a RAM dump";

struct Subject {
  Estimated shown;
  std::unique_ptr<estimate::RamSource> ram;
};

Result<Subject> subject_of_process(const HostFiles& host, const Qemu& qemu) {
  if (!qemu.advice.unread.empty()) {
    return fail(
        fmt::format("how much RAM {} has is not known, for its -readconfig file cannot be read: {}",
                    qemu.label, qemu.advice.unread.front()));
  }
  const sys::Procfs procfs;
  auto ranges = estimate::find_ram(procfs, qemu.pid, qemu.advice.blocks);
  if (!ranges) return std::unexpected(ranges.error());
  auto ram = estimate::ProcessRam::open(qemu.pid, std::move(*ranges));
  if (!ram) return std::unexpected(ram.error());
  return Subject{{qemu.label, qemu.pid, check_vm(host, qemu.pid)}, std::move(*ram)};
}

Result<Subject> subject_of_pid(const HostFiles& host, pid_t pid) {
  if (const auto qemu = qemu_of(host, pid)) return subject_of_process(host, *qemu);
  if (!host.exists(fmt::format("/proc/{}", pid))) {
    return fail(fmt::format("there is no process {}: {}", pid, kUse));
  }
  return fail(fmt::format("process {} is not a QEMU that runs a VM: {}", pid, kUse));
}

Result<Subject> subject_of_file(const std::string& path, estimate::TakenAs taken) {
  auto ram = estimate::RamDump::open(path, taken);
  if (!ram) {
    if (ram.error().code != ENOENT) return std::unexpected(ram.error());
    return fail(fmt::format("there is no file {}: {}", path, kUse));
  }
  return Subject{{path, std::nullopt, {}}, std::move(*ram)};
}

Result<std::vector<Subject>> named(const EstimateOptions& options) {
  const HostFiles host("");
  std::vector<Subject> subjects;
  for (const std::string& target : options.targets) {
    const auto pid = number_of(target);
    const bool is_pid = pid && *pid != 0 && *pid <= sys::kProcessesMax;
    auto subject = is_pid ? subject_of_pid(host, static_cast<pid_t>(*pid))
                          : subject_of_file(target, options.files);
    if (!subject) return std::unexpected(subject.error());
    subjects.push_back(std::move(*subject));
  }
  return subjects;
}

struct Running {
  std::vector<Subject> subjects;
  std::vector<Error> unreadable;
};
Running running() {
  const HostFiles host("");
  Running found;
  for (const pid_t pid : host.processes()) {
    const auto qemu = qemu_of(host, pid);
    if (!qemu) continue;
    if (auto subject = subject_of_process(host, *qemu)) {
      found.subjects.push_back(std::move(*subject));
    } else if (subject.error().code != ESRCH) {  // it has ended meanwhile
      found.unreadable.push_back(subject.error());
    }
  }
  if (found.subjects.empty() && found.unreadable.empty()) {
    found.unreadable.push_back({fmt::format("no QEMU runs here: {}", kUse), 0});
  }
  return found;
}

// N, when one of N clusters of pages is looked at closely.
std::uint32_t one_of(const std::vector<Subject>& subjects, std::optional<ByteCount> sample) {
  if (!sample) return 1;
  std::uint64_t pages = 0;
  for (const Subject& subject : subjects) pages += subject.ram->present().value;
  const std::uint64_t wanted = std::max<std::uint64_t>(1, sample->value / kPageSize);
  return static_cast<std::uint32_t>(
      std::clamp<std::uint64_t>((pages + wanted - 1) / wanted, 1, UINT32_MAX));
}

Status count(std::vector<Subject>& subjects, estimate::Census& census) {
  std::uint64_t pages = 0;
  for (const Subject& subject : subjects) pages += subject.ram->present().value;
  Progress progress(stderr, ::isatty(STDERR_FILENO) == 1, pages);
  for (Subject& subject : subjects) {
    const Status added = census.add(subject.shown.label, *subject.ram,
                                    [&](PageCount read) { progress.advance(read.value); });
    if (added) continue;
    if (added.error().code == ESRCH) {
      return fail(subject.shown.label + " ended while it was read: run it again");
    }
    return added;
  }
  return {};
}

}  // namespace

ExitCode run_estimate(const EstimateOptions& options, const Console& console) {
  const auto fail_with = [&](const Error& error) {
    const control::OperationError shown{control::Failure::failed, error.text(), "", {}};
    if (options.output == Output::json) {
      console.print(control::text_of({{"error", control::to_json(shown)}}, 2) + "\n");
    }
    console.complain(render_error(shown, console.error_style));
    return ExitCode::failed;
  };
  std::vector<Subject> subjects;
  ExitCode code = ExitCode::ok;
  if (options.targets.empty()) {
    Running found = running();
    if (found.subjects.empty()) return fail_with(found.unreadable.front());
    for (const Error& error : found.unreadable) {
      console.complain("ramfold: left out: " + printable(error.text()) + "\n");
      code = ExitCode::failed;
    }
    subjects = std::move(found.subjects);
  } else {
    auto found = named(options);
    if (!found) return fail_with(found.error());
    subjects = std::move(*found);
  }
  estimate::Census census(one_of(subjects, options.sample));
  if (auto counted = count(subjects, census); !counted) return fail_with(counted.error());
  std::vector<Estimated> shown;
  shown.reserve(subjects.size());
  for (Subject& subject : subjects) shown.push_back(std::move(subject.shown));
  console.print(options.output == Output::json ? json_of(shown, census)
                                               : render_estimate(shown, census, console.style));
  return code;
}

}  // namespace ramfold::cli
