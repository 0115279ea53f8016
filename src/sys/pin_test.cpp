// SPDX-License-Identifier: GPL-2.0-or-later
#include "sys/pin_test.hpp"

#include <pin_test.skel.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/check.hpp"
#include "sys/bpf_load.hpp"

namespace ramfold::sys {
std::string_view name_of(PinAnswer answer) noexcept {
  switch (answer) {
    case PinAnswer::unanswered: return "unanswered";
    case PinAnswer::quiet: return "quiet";
    case PinAnswer::hole: return "hole";
    case PinAnswer::swapped: return "swapped";
    case PinAnswer::busy: return "busy";
    case PinAnswer::large: return "large";
    case PinAnswer::mapped_more: return "mapped more than once";
    case PinAnswer::again: return "again";
  }
  return "unknown";
}

std::string PinTestRefusal::text() const {
  std::string reason = code == 0 ? "" : std::strerror(code);
  if (!said.empty()) reason += " (" + said + ")";
  switch (why) {
    case Why::kernel_too_old: return "this kernel is older than Linux 6.7";
    case Why::no_types: return "this kernel does not describe its types (/sys/kernel/btf/vmlinux)";
    case Why::not_permitted: return "loading a BPF program is not permitted: " + reason;
    case Why::lockdown:
    case Why::refused: break;
  }
  std::string text = "the kernel refuses the BPF program: " + reason;
  if (why == Why::lockdown) text += "; it is locked down for confidentiality";
  return text;
}

std::string_view PinTestRefusal::remedy() const noexcept {
  switch (why) {
    case Why::kernel_too_old: return "boot Linux 6.7 or newer";
    case Why::no_types:
      return "boot a kernel with CONFIG_DEBUG_INFO_BTF, as distributions build it";
    case Why::lockdown:
      return "give ramfoldd CAP_BPF and CAP_PERFMON and the system call bpf, as its unit does; if "
             "it has them, boot with lockdown=integrity, which Secure Boot needs, or without";
    case Why::not_permitted:
      return "give ramfoldd CAP_BPF and CAP_PERFMON and the system call bpf, as its unit does";
    case Why::refused: break;
  }
  return "give ramfoldd CAP_BPF and CAP_PERFMON, as its unit does; if it has them, boot an "
         "unmodified kernel of a distribution, and report this one";
}

PinTestRefusal refusal_of(int code, LoadWords words, const Procfs& procfs) {
  using Why = PinTestRefusal::Why;
  const auto version = procfs.kernel_version();
  const bool forbidden = code == EPERM || code == EACCES || code == ENOSYS;
  if (forbidden && !words.of_verifier) words.text.clear();  // libbpf guesses at limits of memory
  Why why = Why::refused;
  if (version && !version->at_least(6, 7)) {
    why = Why::kernel_too_old;
  } else if (!procfs.describes_types()) {
    why = Why::no_types;
  } else if (procfs.lockdown() == "confidentiality") {
    why = Why::lockdown;
  } else if (forbidden && !(code == EACCES && words.of_verifier)) {
    // EACCES: a security module forbids bpf(2). The verifier says the same of a program that does
    // something forbidden, whoever loads it.
    why = Why::not_permitted;
  }
  return {why, code, std::move(words.text)};
}

LoadedPinTest PinTest::load(const Procfs& procfs) {
  std::size_t size = 0;
  const void* const bytes = pin_test_bpf__elf_bytes(&size);
  constexpr std::array kNames{"pin_test"};
  Fd program;
  const auto loaded =
      load_programs({static_cast<const std::byte*>(bytes), size}, kNames, {&program, 1}, procfs);
  if (!loaded) return std::unexpected(loaded.error());
  return PinTest(std::move(program));
}

bool PinTest::ask(BorrowedFd file, std::uint64_t first,
                  std::span<PinAnswer> answers) const noexcept {
  ENSURE(answers.size() <= kPagesMax.value);
  rf_pin_request request{};
  request.fd = static_cast<std::uint32_t>(file.get());
  request.pages = static_cast<std::uint32_t>(answers.size());
  request.first = first;
  if (run_program(program_, std::as_writable_bytes(std::span(&request, 1))) != request.pages) {
    std::ranges::fill(answers, PinAnswer::unanswered);
    return false;
  }
  static_assert(sizeof request.answers == kPagesMax.value * sizeof(PinAnswer));
  std::memcpy(answers.data(), static_cast<const void*>(request.answers), answers.size());
  return true;
}

}  // namespace ramfold::sys
