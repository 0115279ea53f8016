// SPDX-License-Identifier: GPL-2.0-or-later
#include "sys/bpf_load.hpp"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <fcntl.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <memory>
#include <string>
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

std::expected<void, PinTestRefusal> load_programs(std::span<const std::byte> bytes,
                                                  std::span<const char* const> names,
                                                  std::span<Fd> into, const Procfs& procfs) {
  ENSURE(into.size() == names.size());
  LastWords last_words;
  const std::unique_ptr<bpf_object, Close> object(
      bpf_object__open_mem(bytes.data(), bytes.size(), nullptr));
  if (!object) return std::unexpected(refusal_of(errno, last_words.take(), procfs));
  if (const int result = bpf_object__load(object.get()); result != 0)
    return std::unexpected(refusal_of(-result, last_words.take(), procfs));
  for (std::size_t i = 0; i < names.size(); ++i) {
    const bpf_program* const loaded = bpf_object__find_program_by_name(object.get(), names[i]);
    // The program outlives what libbpf keeps beside it.
    into[i] = Fd(::fcntl(bpf_program__fd(loaded), F_DUPFD_CLOEXEC, 0));
    if (!into[i]) return std::unexpected(refusal_of(errno, "F_DUPFD_CLOEXEC", procfs));
  }
  return {};
}

std::uint32_t run_program(BorrowedFd program, std::span<std::byte> context) noexcept {
  bpf_test_run_opts options{};
  options.sz = sizeof options;
  options.ctx_in = context.data();
  options.ctx_size_in = static_cast<std::uint32_t>(context.size());
  return bpf_prog_test_run_opts(program.get(), &options) == 0 ? options.retval : 0;
}

}  // namespace ramfold::sys
