// SPDX-License-Identifier: GPL-2.0-or-later
// Loads BPF programs that are embedded as an object file.
// Threads: one at a time.
#pragma once

#include <array>
#include <expected>
#include <span>
#include <string_view>

#include "sys/fd.hpp"
#include "sys/pin_test.hpp"

namespace ramfold::sys {

// Keeps of libbpf's messages about one load, in their order, the one that tells why it failed.
void hear(LoadWords& words, std::string_view message);

// `into[i]` becomes the program names[i]. REQUIRES: into.size() == names.size().
std::expected<void, PinTestRefusal> load_programs(std::span<const std::byte> object,
                                                  std::span<const char* const> names,
                                                  std::span<Fd> into, const Procfs& procfs);
// Runs a program of the type "syscall" with this context, which it may change. Returns what the
// program returned; 0: it did not run.
std::uint32_t run_program(BorrowedFd program, std::span<std::byte> context) noexcept;

}  // namespace ramfold::sys
