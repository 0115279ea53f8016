// SPDX-License-Identifier: GPL-2.0-or-later
// Would the dynamic loader load the agent into a program? Not into one that is linked statically,
// and not when the kernel tells the loader to trust nothing in the environment (AT_SECURE,
// ld.so(8): "secure-execution mode"). Threads: pure but for reading files.
#pragma once

#include <optional>
#include <string>

namespace ramfold::cli {

struct NotLoaded {
  std::string why;     // "it is linked statically", to stand behind a colon
  std::string remedy;  // one sentence
};

// Why this program can load the agent for no user: it is static, for another kind of processor, or
// not linked against glibc. Nothing: it can, it is a script, or it cannot be read.
std::optional<NotLoaded> cannot_load(const std::string& file);

// Does the file give rights that its starter does not have (capabilities, setuid, setgid)? Then the
// kernel tells the loader to ignore LD_PRELOAD. `at` is looked at, `file` is named in the remedy.
std::optional<NotLoaded> has_rights(const std::string& at, const std::string& file);

// Both checks, for a program that this process is about to execute. It is sought as execvp does,
// and rights count only where they are more than this process has.
std::optional<NotLoaded> why_not_loaded(const std::string& program);

}  // namespace ramfold::cli
