// SPDX-License-Identifier: GPL-2.0-or-later
// Whether the dynamic loader would load the agent into a program: it does not into one that is
// linked statically, nor where the kernel tells it to trust nothing from the environment
// (AT_SECURE, ld.so(8): "secure-execution mode"). Threads: pure but for reading files.
#pragma once

#include <optional>
#include <string>

namespace ramfold::cli {

struct NotLoaded {
  std::string why;     // "it is linked statically", to stand behind a colon
  std::string remedy;  // one sentence
};

// As the file is, whoever starts it: static, of another kind of processor, not of glibc. Nothing
// for what can load the agent, for a script, and for a file that cannot be read.
std::optional<NotLoaded> cannot_load(const std::string& file);

// The file's own right to more than its starter has (capabilities, setuid, setgid), with which the
// kernel tells the loader to ignore LD_PRELOAD. `file` is named in the remedy.
std::optional<NotLoaded> has_rights(const std::string& at, const std::string& file);

// Both, for a program that this process is about to become, sought as execvp does.
std::optional<NotLoaded> why_not_loaded(const std::string& program);

}  // namespace ramfold::cli
