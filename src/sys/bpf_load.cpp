// SPDX-License-Identifier: GPL-2.0-or-later
#include "sys/bpf_load.hpp"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <memory>
#include <string>
#include <utility>

#include "base/check.hpp"

namespace ramfold::sys {
namespace {

constexpr std::size_t kReasonMax = 512;

// libbpf tells what went wrong through one function for the whole process.
thread_local LoadWords* t_words = nullptr;

// A message with the verifier's log may have 16 MiB: libbpf's own bound.
int hear_message(libbpf_print_level level, const char* format, std::va_list arguments) {
  if (level != LIBBPF_WARN || t_words == nullptr) return 0;
  std::va_list twice;
  va_copy(twice, arguments);
  const int size = std::vsnprintf(nullptr, 0, format, twice);
  va_end(twice);
  if (size <= 0) return 0;
  std::string message(static_cast<std::size_t>(size), '\0');
  (void)std::vsnprintf(message.data(), message.size() + 1, format, arguments);
  hear(*t_words, message);
  return 0;
}

class Listening {
 public:
  Listening() : before_(libbpf_set_print(hear_message)) { t_words = &words_; }
  ~Listening() {
    t_words = nullptr;
    libbpf_set_print(before_);
  }
  Listening(const Listening&) = delete;
  Listening& operator=(const Listening&) = delete;
  LoadWords take() { return std::move(words_); }

 private:
  LoadWords words_;
  libbpf_print_fn_t before_;
};

// The verifier's reason is the last line of its log, before the line with its figures.
std::string_view reason_in(std::string_view log) noexcept {
  while (!log.empty()) {
    const std::size_t end = log.find_last_not_of('\n');
    if (end == std::string_view::npos) return {};
    log = log.substr(0, end + 1);
    const std::size_t line = log.rfind('\n') + 1;  // npos + 1 is 0
    if (!log.substr(line).starts_with("processed ")) return log.substr(line);
    log = log.substr(0, line);
  }
  return {};
}

struct Close {
  void operator()(bpf_object* object) const noexcept { bpf_object__close(object); }
};

}  // namespace

void hear(LoadWords& words, std::string_view message) {
  constexpr std::string_view kLogBegins = "-- BEGIN PROG LOAD LOG --\n";
  constexpr std::string_view kLogEnds = "-- END PROG LOAD LOG --";
  if (words.of_verifier) return;  // the messages after the log only say that it failed
  if (const std::size_t log = message.find(kLogBegins); log != std::string_view::npos) {
    message.remove_prefix(log + kLogBegins.size());
    words = {std::string(reason_in(message.substr(0, message.rfind(kLogEnds)))), true};
  } else if (!message.starts_with("libbpf: failed to load object")) {
    words.text = message.substr(0, message.find_last_not_of('\n') + 1);
  }
  if (words.text.size() > kReasonMax) words.text.resize(kReasonMax);
}

std::expected<void, PinTestRefusal> load_programs(std::span<const std::byte> bytes,
                                                  std::span<const char* const> names,
                                                  std::span<Fd> into, const Procfs& procfs) {
  ENSURE(into.size() == names.size());
  Listening listening;
  const std::unique_ptr<bpf_object, Close> object(
      bpf_object__open_mem(bytes.data(), bytes.size(), nullptr));
  if (!object) return std::unexpected(refusal_of(errno, listening.take(), procfs));
  if (const int result = bpf_object__load(object.get()); result != 0)
    return std::unexpected(refusal_of(-result, listening.take(), procfs));
  for (std::size_t i = 0; i < names.size(); ++i) {
    const bpf_program* const loaded = bpf_object__find_program_by_name(object.get(), names[i]);
    // The program outlives what libbpf keeps beside it.
    into[i] = Fd(::fcntl(bpf_program__fd(loaded), F_DUPFD_CLOEXEC, 0));
    if (!into[i]) return std::unexpected(refusal_of(errno, {"F_DUPFD_CLOEXEC"}, procfs));
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
