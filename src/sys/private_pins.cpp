// SPDX-License-Identifier: GPL-2.0-or-later
#include "sys/private_pins.hpp"

#include <fcntl.h>
#include <private_pins.skel.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <optional>
#include <utility>

#include "base/check.hpp"
#include "sys/bpf_load.hpp"
#include "sys/memory.hpp"
#include "sys/page_batches.hpp"

namespace ramfold::sys {
namespace {

constexpr unsigned kTriesMax = 100;

std::unexpected<PinTestRefusal> refuse(const char* why) {
  return std::unexpected(PinTestRefusal{PinTestRefusal::Why::refused, ENOTSUP, why});
}

HostVirt address_of(const Mapping& mapping) noexcept {
  return HostVirt{reinterpret_cast<std::uintptr_t>(mapping.data())};
}

// Two pages of two files must lead to the same places.
std::optional<rf_kernel_places> find_places(BorrowedFd program, const Pagemap& own) noexcept {
  std::array<rf_find_request, 2> requests{};
  for (rf_find_request& request : requests) {
    const auto file = make_memfd("ramfold-private-pins", ByteCount{kPageSize}, Sealed::no);
    const auto pagemap = own.descriptor();
    if (!file || !pagemap) return std::nullopt;
    const auto mapped = Mapping::shared(*file, ByteCount{kPageSize});
    if (!mapped) return std::nullopt;
    static_cast<volatile std::byte*>(mapped->data())[0] = std::byte{1};
    request.pagemap = static_cast<std::uint32_t>(*pagemap);
    request.file = static_cast<std::uint32_t>(file->get());
    request.address = address_of(*mapped).value;
    if (run_program(program, std::as_writable_bytes(std::span(&request, 1))) != 1)
      return std::nullopt;
  }
  const auto& [first, second] = requests;
  if (first.found.direct_map != second.found.direct_map ||
      first.found.frames != second.found.frames) {
    return std::nullopt;
  }
  return first.found;
}

class Held {
 public:
  // A pipe takes a reference to the page.
  explicit Held(std::byte* page) noexcept {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC | O_NONBLOCK) != 0) return;
    out_.reset(ends[0]);
    in_.reset(ends[1]);
    const iovec vector{page, kPageSize};
    holds_ = ::vmsplice(in_.get(), &vector, 1, 0) == static_cast<ssize_t>(kPageSize);
  }
  bool holds() const noexcept { return holds_; }

 private:
  Fd out_, in_;
  bool holds_ = false;
};

}  // namespace

LoadedPrivatePins PrivatePins::load(const Procfs& procfs) {
  std::size_t size = 0;
  const void* const bytes = private_pins_bpf__elf_bytes(&size);
  constexpr std::array kNames{"find_kernel", "private_pins"};
  std::array<Fd, 2> programs;
  const auto loaded =
      load_programs({static_cast<const std::byte*>(bytes), size}, kNames, programs, procfs);
  if (!loaded) return std::unexpected(loaded.error());
  const Pagemap own(::getpid(), BorrowedFd(-1));
  const auto places = find_places(programs[0], own);
  if (!places) return refuse("it does not find the kernel's page tables");
  PrivatePins pins(std::move(programs[1]), *places);

  // Page 0 is written, page 1 read, page 2 written and held, page 3 left alone.
  constexpr ByteCount kPages{4 * kPageSize};
  const auto file = make_memfd("ramfold-private-pins", kPages, Sealed::no);
  if (!file) return refuse("there is no memory to try it on");
  const auto mapped = Mapping::private_of(*file, kPages);
  if (!mapped) return refuse("there is no memory to try it on");
  std::byte* const at = mapped->data();
  static_cast<volatile std::byte*>(at)[0] = std::byte{1};
  (void)static_cast<volatile std::byte*>(at)[kPageSize];
  static_cast<volatile std::byte*>(at)[2 * kPageSize] = std::byte{1};
  const Held held(at + 2 * kPageSize);
  constexpr std::array kExpected{PinAnswer::quiet, PinAnswer::hole, PinAnswer::busy,
                                 PinAnswer::hole};
  std::array<PinAnswer, 4> said{};
  for (unsigned i = 0; i < kTriesMax; ++i) {
    if (held.holds() && pins.ask(own, address_of(*mapped), said) && said == kExpected) return pins;
    drain_page_batches();
  }
  return refuse("its answers about pages that are known are wrong");
}

bool PrivatePins::run(rf_private_request& request, const Pagemap& pagemap) const noexcept {
  const auto descriptor = pagemap.descriptor();
  if (!descriptor) return false;
  request.pagemap = static_cast<std::uint32_t>(*descriptor);
  request.kernel = kernel_;
  return run_program(program_, std::as_writable_bytes(std::span(&request, 1))) == request.pages;
}

bool PrivatePins::ask(const Pagemap& pagemap, HostVirt first,
                      std::span<PinAnswer> answers) const noexcept {
  ENSURE(!answers.empty() && answers.size() <= kPagesMax.value);
  rf_private_request request{};
  request.pages = static_cast<std::uint32_t>(answers.size());
  request.address = first.value;
  if (!run(request, pagemap)) {
    std::ranges::fill(answers, PinAnswer::unanswered);
    return false;
  }
  static_assert(sizeof request.answers == kPagesMax.value * sizeof(PinAnswer));
  std::memcpy(answers.data(), static_cast<const void*>(request.answers), answers.size());
  return true;
}

std::optional<std::uint64_t> PrivatePins::mappings(const Pagemap& pagemap) const noexcept {
  rf_private_request request{};
  request.pages = 1;
  if (!run(request, pagemap)) return std::nullopt;
  return request.mappings;
}

}  // namespace ramfold::sys
