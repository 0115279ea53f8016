// SPDX-License-Identifier: GPL-2.0-or-later
#include "sys/pin_test.hpp"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <fcntl.h>
#include <pin_test.skel.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <memory>
#include <utility>

#include "base/check.hpp"

namespace ramfold::sys {
namespace {

// libbpf tells what went wrong through one function for the whole process.
thread_local std::string* t_last_words = nullptr;

int note_last_words(libbpf_print_level level, const char* format, std::va_list arguments) {
  if (level != LIBBPF_WARN || t_last_words == nullptr) return 0;
  std::array<char, 512> line{};
  const int n = std::vsnprintf(line.data(), line.size(), format, arguments);
  std::string_view text(line.data(), std::min<std::size_t>(n < 0 ? 0 : n, line.size() - 1));
  // The verifier's log has many lines, and its reason is near the end.
  while (text.ends_with('\n')) text.remove_suffix(1);
  text.remove_prefix(text.rfind('\n') == std::string_view::npos ? 0 : text.rfind('\n') + 1);
  if (!text.empty()) *t_last_words = text;
  return 0;
}

class LastWords {
 public:
  LastWords() : before_(libbpf_set_print(note_last_words)) { t_last_words = &said_; }
  ~LastWords() {
    t_last_words = nullptr;
    libbpf_set_print(before_);
  }
  LastWords(const LastWords&) = delete;
  LastWords& operator=(const LastWords&) = delete;
  std::string take() { return std::move(said_); }

 private:
  std::string said_;
  libbpf_print_fn_t before_;
};

struct Close {
  void operator()(bpf_object* object) const noexcept { bpf_object__close(object); }
};

}  // namespace

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
  const std::string_view reason = code == 0 ? "" : std::strerror(code);
  switch (why) {
    case Why::kernel_too_old: return "this kernel is older than Linux 6.7";
    case Why::no_types: return "this kernel does not describe its types (/sys/kernel/btf/vmlinux)";
    case Why::lockdown: return "the kernel is locked down for confidentiality";
    case Why::not_permitted:
      return "loading a BPF program is not permitted: " + std::string(reason);
    case Why::refused: break;
  }
  std::string text = "the kernel refuses the BPF program: " + std::string(reason);
  if (!said.empty()) text += " (" + said + ")";
  return text;
}

std::string_view PinTestRefusal::remedy() const noexcept {
  switch (why) {
    case Why::kernel_too_old: return "boot Linux 6.7 or newer";
    case Why::no_types:
      return "boot a kernel with CONFIG_DEBUG_INFO_BTF, as distributions build it";
    case Why::lockdown: return "boot with lockdown=integrity, which Secure Boot needs, or without";
    case Why::not_permitted:
      return "give ramfoldd CAP_BPF and CAP_PERFMON and the system call bpf, as its unit does";
    case Why::refused: break;
  }
  return "boot an unmodified kernel of a distribution, and report this one";
}

PinTestRefusal refusal_of(int code, std::string said, const Procfs& procfs) {
  using Why = PinTestRefusal::Why;
  const auto version = procfs.kernel_version();
  Why why = Why::refused;
  if (version && !version->at_least(6, 7)) {
    why = Why::kernel_too_old;
  } else if (!procfs.describes_types()) {
    why = Why::no_types;
  } else if (procfs.lockdown() == "confidentiality") {
    why = Why::lockdown;
  } else if (code == EPERM || code == EACCES || code == ENOSYS) {
    why = Why::not_permitted;
  }
  return {why, code, std::move(said)};
}

LoadedPinTest PinTest::load(const Procfs& procfs) {
  LastWords last_words;
  std::size_t size = 0;
  const void* bytes = pin_test_bpf__elf_bytes(&size);
  const std::unique_ptr<bpf_object, Close> object(bpf_object__open_mem(bytes, size, nullptr));
  if (!object) return std::unexpected(refusal_of(errno, last_words.take(), procfs));
  if (const int result = bpf_object__load(object.get()); result != 0)
    return std::unexpected(refusal_of(-result, last_words.take(), procfs));
  const bpf_program* loaded = bpf_object__find_program_by_name(object.get(), "pin_test");
  // The program outlives what libbpf keeps beside it.
  Fd program(::fcntl(bpf_program__fd(loaded), F_DUPFD_CLOEXEC, 0));
  if (!program) return std::unexpected(refusal_of(errno, "F_DUPFD_CLOEXEC", procfs));
  return PinTest(std::move(program));
}

bool PinTest::ask(BorrowedFd file, std::uint64_t first,
                  std::span<PinAnswer> answers) const noexcept {
  ENSURE(answers.size() <= kPagesMax.value);
  rf_pin_request request{};
  request.fd = static_cast<std::uint32_t>(file.get());
  request.pages = static_cast<std::uint32_t>(answers.size());
  request.first = first;
  bpf_test_run_opts options{};
  options.sz = sizeof options;
  options.ctx_in = &request;
  options.ctx_size_in = sizeof request;
  const bool ran = bpf_prog_test_run_opts(program_.get(), &options) == 0;
  if (!ran || options.retval != request.pages) {
    std::ranges::fill(answers, PinAnswer::unanswered);
    return false;
  }
  static_assert(sizeof request.answers == kPagesMax.value * sizeof(PinAnswer));
  std::memcpy(answers.data(), static_cast<const void*>(request.answers), answers.size());
  return true;
}

}  // namespace ramfold::sys
