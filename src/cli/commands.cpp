// SPDX-License-Identifier: GPL-2.0-or-later
#include "cli/commands.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <thread>

#include "base/clock.hpp"
#include "cli/policy_view.hpp"
#include "cli/render.hpp"
#include "cli/unattached.hpp"
#include "control/view_json.hpp"

namespace ramfold::cli {
namespace {

using namespace ramfold::control;
using namespace std::chrono_literals;
using Json = nlohmann::json;

// A snapshot takes milliseconds; a daemon that needs longer than this is in trouble.
constexpr std::chrono::milliseconds kLookPatience = 15s;
constexpr std::chrono::milliseconds kOperationPatience = 0ms;  // as long as it takes
// How often progress is printed when stdout is no terminal, so that it does not fill a log.
constexpr std::uint64_t kProgressLineNs = 5'000'000'000;

ExitCode exit_of(const OperationError& error) {
  return error.failure == Failure::refused ? ExitCode::refused : ExitCode::failed;
}

void print_json(const Console& console, const Json& json, int indent = 2) {
  console.print(text_of(json, indent) + "\n");
}

void report(const CommandOptions& options, const Console& console, const OperationError& error) {
  if (options.output == Output::json) print_json(console, {{"error", to_json(error)}});
  console.complain(render_error(error, console.error_style));
}

ExitCode fail_with(const CommandOptions& options, const Console& console,
                   const ClientError& error) {
  report(options, console, error.error);
  return exit_of(error);
}

Asked<Reply> ask(const CommandOptions& options, Request request, std::chrono::milliseconds patience,
                 const std::function<void(const Reply&)>& part = {}) {
  auto client = Client::connect(options.socket);
  if (!client) return std::unexpected(client.error());
  request.id = 1;
  return client->ask(request, patience, part);
}

// The last line of an answer is a View, which goes to `show`.
template <typename View, typename Show>
ExitCode show_answer(const CommandOptions& options, const Console& console,
                     const Asked<Reply>& reply, Show show) {
  if (!reply) return fail_with(options, console, reply.error());
  if (const auto* error = std::get_if<OperationError>(&reply->body)) {
    report(options, console, *error);
    return exit_of(*error);
  }
  const auto* view = std::get_if<View>(&reply->body);
  if (view == nullptr) {
    report(options, console, another_kind());
    return ExitCode::failed;
  }
  show(*view);
  return ExitCode::ok;
}

// Makes one request, which is answered soon.
template <typename View, typename Show>
ExitCode ask_and_show(const CommandOptions& options, const Console& console, const Request& request,
                      Show show) {
  return show_answer<View>(options, console, ask(options, request, kLookPatience), show);
}

// Under --watch, again and again. A look that fails does not end it, so the daemon may restart.
template <typename Look>
ExitCode watch(const CommandOptions& options, const Console& console, Look look) {
  if (!options.watch_seconds) return look();
  while (true) {
    if (console.tty && options.output == Output::text) console.print("\x1b[H\x1b[2J");
    look();
    if (options.output == Output::text && !console.tty) console.print("\n");
    if (std::fflush(console.out) != 0) return ExitCode::failed;  // nobody reads any more
    std::this_thread::sleep_for(std::chrono::duration<double>(*options.watch_seconds));
  }
}

// Under --watch each look prints one line, so that a program can read it.
int indent_of(const CommandOptions& options) { return options.watch_seconds ? -1 : 2; }

class UnfoldScreen {
 public:
  UnfoldScreen(const CommandOptions& options, const Console& console, std::string what)
      : options_(options), console_(console), what_(std::move(what)) {}

  void part(const Reply& reply) {
    if (const auto* plan = std::get_if<UnfoldPlan>(&reply.body)) {
      plan_ = *plan;
      if (options_.output == Output::text)
        console_.print(render_plan(*plan, what_, console_.style));
      std::fflush(console_.out);
    } else if (const auto* progress = std::get_if<UnfoldProgress>(&reply.body)) {
      if (options_.output == Output::text) show(*progress);
    }
  }
  void finish() {
    if (in_place_) console_.print("\n");
  }
  Json plan_json() const { return plan_ ? to_json(*plan_) : Json(); }

 private:
  void show(const UnfoldProgress& progress) {
    if (console_.tty) {
      console_.print("\r\x1b[K" + render_progress(progress));
      in_place_ = true;
    } else if (const auto now = monotonic_ns(); now - last_ns_ >= kProgressLineNs) {
      console_.print(render_progress(progress) + "\n");
      last_ns_ = now;
    }
    std::fflush(console_.out);
  }

  const CommandOptions& options_;
  const Console& console_;
  const std::string what_;
  std::optional<UnfoldPlan> plan_;
  std::uint64_t last_ns_ = monotonic_ns();
  bool in_place_ = false;
};

VmsSelector selector_of(const std::optional<std::string>& vm) {
  return vm ? VmsSelector(VmSelector{*vm}) : std::nullopt;
}

}  // namespace

ExitCode run_status(const CommandOptions& options, const Console& console) {
  return watch(options, console, [&] {
    return ask_and_show<Snapshot>(
        options, console, {0, Operation::snapshot, {}, false}, [&](const Snapshot& snapshot) {
          if (options.output == Output::json) {
            print_json(console, {{"host", to_json(snapshot.host)}}, indent_of(options));
          } else {
            console.print(options.counters ? render_counters(snapshot.host.counters, console.style)
                                           : render_status(snapshot, console.style));
          }
        });
  });
}

ExitCode run_list(const CommandOptions& options, const Console& console, const ListOptions& shown) {
  return watch(options, console, [&] {
    return ask_and_show<Snapshot>(
        options, console, {0, Operation::snapshot, {}, false}, [&](const Snapshot& snapshot) {
          const auto others = [&] { return unattached(HostFiles(""), snapshot); };
          if (options.output == Output::json) {
            print_json(console,
                       {{"vms", to_json(snapshot)["vms"]}, {"unattached", json_of(others())}},
                       indent_of(options));
            return;
          }
          std::string text = render_list(snapshot, console.style, shown);
          if (shown.for_people()) text += render_unattached(others(), console.style);
          console.print(text);
        });
  });
}

ExitCode run_show(const CommandOptions& options, const Console& console, const std::string& vm) {
  return ask_and_show<VmView>(
      options, console, {0, Operation::show, VmSelector{vm}, false}, [&](const VmView& view) {
        if (options.output == Output::json) {
          print_json(console, {{"vm", to_json(view)}});
        } else {
          console.print(options.counters ? render_counters(view.counters, console.style)
                                         : render_vm(view, console.style));
        }
      });
}

ExitCode run_attach(const CommandOptions& options, const Console& console, const std::string& vm,
                    Incoming incoming) {
  const auto reply =
      ask(options, {0, Operation::attach, VmSelector{vm}, false, incoming == Incoming::finished},
          kOperationPatience);
  if (!reply) return fail_with(options, console, reply.error());
  if (const auto* error = std::get_if<OperationError>(&reply->body)) {
    report(options, console, *error);
    return exit_of(*error);
  }
  if (const auto* view = std::get_if<VmView>(&reply->body)) {
    if (options.output == Output::json) {
      print_json(console, {{"vm", to_json(*view)}});
    } else {
      console.print(render_vm(*view, console.style));
    }
  }
  return ExitCode::ok;
}

ExitCode run_unfold(const CommandOptions& options, const Console& console,
                    const std::optional<std::string>& vm, DryRun dry_run) {
  UnfoldScreen screen(options, console, vm ? "detach " + printable(*vm) : "off");
  const Request request{0, vm ? Operation::detach : Operation::off, selector_of(vm),
                        dry_run == DryRun::yes};
  const auto reply =
      ask(options, request, kOperationPatience, [&](const Reply& part) { screen.part(part); });
  screen.finish();
  if (!reply) return fail_with(options, console, reply.error());
  const auto* error = std::get_if<OperationError>(&reply->body);
  if (options.output == Output::json) {
    Json json{{"plan", screen.plan_json()}, {"done", error == nullptr && dry_run == DryRun::no}};
    if (error != nullptr) json["error"] = to_json(*error);
    print_json(console, json);
  }
  if (error != nullptr) {
    console.complain(render_error(*error, console.error_style));
    return exit_of(*error);
  }
  if (options.output == Output::text && dry_run == DryRun::no) {
    console.print(vm ? "Every page of the VM is back, and the VM is detached.\n"
                     : "Every page is back. Nothing is folded until `ramfold resume`.\n");
  }
  return ExitCode::ok;
}

ExitCode run_policy_get(const CommandOptions& options, const Console& console,
                        const std::optional<std::string>& vm) {
  return ask_and_show<PolicyView>(options, console,
                                  {0, Operation::policy_get, selector_of(vm), false},
                                  [&](const PolicyView& policy) {
                                    if (options.output == Output::json) {
                                      print_json(console, {{"policy", to_json(policy)}});
                                    } else {
                                      console.print(render_policy(policy, console.style));
                                    }
                                  });
}

ExitCode run_policy_set(const CommandOptions& options, const Console& console,
                        std::vector<std::string> words) {
  Request request{0, Operation::policy_set, {}, false};
  if (words.front().find('=') == std::string::npos) {
    request.vm = VmSelector{words.front()};
    words.erase(words.begin());
  }
  if (words.empty()) {
    report(options, console,
           {Failure::bad_request,
            "there is nothing to set",
            "write KEY=VALUE, or KEY= for the value of the file",
            {}});
    return ExitCode::usage;
  }
  request.assignments = std::move(words);
  // A VM that gets another trust group is unfolded first.
  UnfoldScreen screen(options, console, "policy set");
  const auto reply =
      ask(options, request, kOperationPatience, [&](const Reply& part) { screen.part(part); });
  screen.finish();
  return show_answer<PolicyView>(options, console, reply, [&](const PolicyView& policy) {
    if (options.output == Output::json) return print_json(console, {{"policy", to_json(policy)}});
    if (policy.keys.empty()) {
      return console.print("Taken back. The VM is not there; the file's values will hold.\n");
    }
    PolicyView changed{policy.file, {}};
    for (const PolicyKeyView& key : policy.keys) {
      const auto names = [&key](const std::string& word) {
        return word.starts_with(key.key + "=");
      };
      if (std::ranges::any_of(request.assignments, names)) changed.keys.push_back(key);
    }
    console.print(render_policy(changed, console.style));
  });
}

ExitCode run_pause(const CommandOptions& options, const Console& console,
                   const std::optional<std::string>& vm, Pausing pausing) {
  const bool pause = pausing == Pausing::pause;
  const auto reply =
      ask(options, {0, pause ? Operation::pause : Operation::resume, selector_of(vm), false},
          kOperationPatience);
  if (!reply) return fail_with(options, console, reply.error());
  if (const auto* error = std::get_if<OperationError>(&reply->body)) {
    report(options, console, *error);
    return exit_of(*error);
  }
  if (options.output == Output::json) {
    print_json(console, {{"done", true}});
  } else {
    console.print(pause ? "Paused: nothing more is folded, folded pages stay so and are served.\n"
                        : "Resumed.\n");
  }
  return ExitCode::ok;
}

}  // namespace ramfold::cli
