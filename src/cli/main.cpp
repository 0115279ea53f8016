// SPDX-License-Identifier: GPL-2.0-or-later
// `ramfold`: ramfold(1).
#include <CLI/CLI.hpp>
#include <cstdlib>
#include <string_view>

#include "cli/commands.hpp"
#include "cli/doctor.hpp"
#include "cli/estimate.hpp"
#include "cli/exec.hpp"
#include "cli/suggest.hpp"
#include "cli/top.hpp"
#include "version.hpp"

namespace ramfold::cli {
namespace {

int status_of(ExitCode code) { return static_cast<int>(code); }

struct Arguments {
  CommandOptions options;
  bool json = false;
  bool dry_run = false;
  bool incoming_finished = false;
  bool all = false;
  bool raw = false;
  ListOptions list;
  std::string columns;
  bool no_headings = false;
  bool all_columns = false;
  std::string vm;
  std::vector<std::string> words;
  std::string root;
  EstimateOptions estimate;
  TopOptions top;
  std::uint64_t sample_mib = EstimateOptions{}.sample->value >> 20;
  double watch_seconds = 2;
};

ExitCode run_doctor(const Arguments& arguments, const Console& console) {
  const HostFiles host(arguments.root);
  std::vector<Check> checks = check_host(host);
  const auto ask = [&]() -> Asked<control::Snapshot> {
    auto client = Client::connect(host.at(arguments.options.socket));
    if (!client) return std::unexpected(client.error());
    const auto reply =
        client->ask({1, control::Operation::snapshot, {}, false}, std::chrono::seconds(15), {});
    if (!reply) return std::unexpected(reply.error());
    if (const auto* view = std::get_if<control::Snapshot>(&reply->body)) return *view;
    if (const auto* error = std::get_if<control::OperationError>(&reply->body)) {
      return std::unexpected(ClientError{ClientError::Kind::broken, *error});
    }
    return std::unexpected(ClientError{});
  };
  if (arguments.root.empty()) checks.push_back(check_rights(host));
  const Asked<control::Snapshot> daemon = ask();
  for (Check& check : check_daemon(host, daemon)) checks.push_back(std::move(check));
  for (Check& check : check_vms(host, daemon ? &*daemon : nullptr))
    checks.push_back(std::move(check));
  if (daemon) {
    for (Check& check : check_folding(host, *daemon)) checks.push_back(std::move(check));
  }
  console.print(arguments.json
                    ? json_of(checks)
                    : render_checks(checks, arguments.all ? Detail::all : Detail::failed_only,
                                    console.style));
  return found_problems(checks) ? ExitCode::problems : ExitCode::ok;
}

ExitCode run_estimate(Arguments& arguments, const Console& console) {
  arguments.estimate.output = arguments.options.output;
  arguments.estimate.sample = ByteCount{arguments.sample_mib << 20};
  if (arguments.all) arguments.estimate.sample.reset();
  if (arguments.raw) arguments.estimate.files = estimate::TakenAs::raw;
  return run_estimate(arguments.estimate, console);
}

// Its arguments belong to CMD: no option parser looks at them.
int main_exec(int argc, char** argv, const Console& console) {
  ExecOptions options;
  int at = 2;
  if (at + 1 < argc && argv[at] == std::string_view("--agent-socket")) {
    options.agent_socket = argv[at + 1];
    at += 2;
  }
  if (at < argc && argv[at] == std::string_view("--")) ++at;
  options.command.assign(argv + std::min(at, argc), argv + argc);
  const bool help =
      at < argc && (options.command.front() == "--help" || options.command.front() == "-h");
  if (options.command.empty() || options.command.front().starts_with('-')) {
    console.complain(
        "usage: ramfold exec [--agent-socket PATH] [--] CMD [ARG...]\n"
        "Starts CMD, a QEMU or a script that executes one, with the agent loaded.\n");
    return status_of(help ? ExitCode::ok : ExitCode::usage);
  }
  return status_of(run_exec(options, console));
}

class Parser {
 public:
  explicit Parser(const Console& console) : console_(console) {
    if (const char* socket = std::getenv("RAMFOLD_SOCKET"); socket != nullptr && *socket != '\0') {
      arguments_.options.socket = socket;
    }
    app_.require_subcommand(1);
    app_.set_version_flag("--version", std::string("ramfold ") + kVersion);
    app_.footer(
        "Exit status: 0 ok, 1 failed, 2 usage, 3 the daemon is not running,\n"
        "4 refused for safety, 5 doctor found problems. See ramfold(1).");
    add_looks();
    add_operations();
    add_policy();
    CLI::App* doctor = add("doctor", "check kernel, settings, VMs; tell what to change",
                           [this] { return run_doctor(arguments_, console_); });
    doctor->add_option("--root", arguments_.root, "a directory with /proc, /sys, /dev and /run");
    doctor->add_flag("--all", arguments_.all, "also show what passed");
    add_estimate();
    app_.add_subcommand("exec", "start QEMU with the agent: `ramfold exec -- QEMU`");
  }

  int run(int argc, char** argv) {
    try {
      app_.parse(argc, argv);
    } catch (const CLI::ParseError& error) {
      if (const std::string complaint = complaint_of_unknown(); !complaint.empty()) {
        console_.complain(complaint);
        return status_of(ExitCode::usage);
      }
      const int code = app_.exit(error);
      return code == 0 ? 0 : status_of(ExitCode::usage);
    }
    arguments_.options.output = arguments_.json ? Output::json : Output::text;
    return status_of(action_());
  }

 private:
  using Action = std::function<ExitCode()>;

  CLI::App* add(const char* name, const char* description, Action action) {
    return add(app_, name, description, std::move(action));
  }

  CLI::App* add(CLI::App& parent, const char* name, const char* description, Action action) {
    CLI::App* command = parent.add_subcommand(name, description);
    command->add_flag("--json", arguments_.json, "print JSON");
    command->add_option("--socket", arguments_.options.socket, "the daemon's control socket")
        ->capture_default_str();
    command->callback([this, action = std::move(action)] { action_ = action; });
    return command;
  }

  void watched(CLI::App* command) {
    command
        ->add_option("--watch", arguments_.watch_seconds, "repeat every SECONDS (2 when not given)")
        ->expected(0, 1)
        ->default_str("2")
        ->check(CLI::Range(0.1, 3600.0))
        ->type_name("SECONDS");
    const CLI::Option* option = command->get_option("--watch");
    command->parse_complete_callback([this, option] {
      if (option->count() > 0) arguments_.options.watch_seconds = arguments_.watch_seconds;
    });
  }

  void add_looks() {
    CLI::App* status = add("status", "the host: what is saved, spent and promised",
                           [this] { return run_status(arguments_.options, console_); });
    watched(status);
    add_list();
    add_top();
    CLI::App* show = add("show", "one VM in full",
                         [this] { return run_show(arguments_.options, console_, arguments_.vm); });
    show->add_option("VM", arguments_.vm, "id, pid, name or uuid")->required();
    for (CLI::App* command : {status, show}) {
      command->add_flag("--counters", arguments_.options.counters, "all counters, one a line")
          ->excludes(command->get_option("--json"));  // which has them beside the rest
    }
  }

  void add_top() {
    CLI::App* top = add("top", "the VMs, live: stall, refaults, net saved", [this] {
      arguments_.top.socket = arguments_.options.socket;
      return run_top(arguments_.top, console_);
    });
    top->remove_option(top->get_option("--json"));
    top->add_option("-d,--delay", arguments_.top.delay_seconds, "time between two looks")
        ->check(CLI::Range(0.1, 3600.0))
        ->type_name("SECONDS")
        ->capture_default_str();
    top->add_option("-n,--iterations", arguments_.top.count,
                    "end after COUNT looks; without a terminal: 1")
        ->check(CLI::Range(1u, 1'000'000'000u))
        ->type_name("COUNT");
  }

  void add_list() {
    CLI::App* list = add("list", "the VMs, and why one saves nothing", [this] {
      arguments_.list.writing.headings = !arguments_.no_headings;
      if (arguments_.all_columns) arguments_.list.columns = all_columns();
      return run_list(arguments_.options, console_, arguments_.list);
    });
    watched(list);
    CLI::Option* all = list->add_flag("--output-all", arguments_.all_columns, "all columns");
    list->add_option("-o,--output", arguments_.columns, "columns, separated by commas")
        ->type_name("COLUMNS")
        ->excludes(all)
        ->each([this](const std::string& text) {
          auto columns = parse_columns(text);
          if (!columns) throw CLI::ValidationError(columns.error());
          arguments_.list.columns = std::move(*columns);
        });
    list->add_flag("--raw", arguments_.list.writing.raw,
                   "one blank between columns, \\x20 for a blank in one");
    list->add_flag("-n,--noheadings", arguments_.no_headings, "no headings");
    list->add_flag("-b,--bytes", arguments_.list.bytes, "amounts of memory as plain numbers");
    list->footer(describe_columns());
  }

  // The complaint about the first word that no command or option takes; empty: there is none.
  std::string complaint_of_unknown() const {
    const CLI::App* command = &app_;
    std::string name = "ramfold";
    while (!command->get_subcommands().empty()) {
      command = command->get_subcommands().back();
      name += " " + command->get_name();
    }
    const std::vector<std::string> left = app_.remaining(true);
    if (left.empty()) return {};
    const std::string& word = left.front();
    const bool option = word.starts_with('-');
    std::vector<std::string> known;
    if (option) {
      for (const CLI::Option* one : command->get_options()) {
        for (const std::string& word_of : one->get_lnames()) known.push_back("--" + word_of);
      }
    } else {
      for (const CLI::App* one : command->get_subcommands({})) known.push_back(one->get_name());
    }
    const char* kind = option ? "option" : known.empty() ? "argument" : "command";
    const std::string hint = did_you_mean(word.substr(0, word.find('=')), known);
    return name + ": unknown " + kind + " '" + printable(word) + "'" + hint + "\nSee `" + name +
           " --help`.\n";
  }

  void add_estimate() {
    CLI::App* estimate = add("estimate", "what would be saved of running VMs or RAM dumps",
                             [this] { return run_estimate(arguments_, console_); });
    estimate->remove_option(estimate->get_option("--socket"));  // it needs no daemon
    estimate->add_option("TARGET", arguments_.estimate.targets,
                         "pids of QEMUs, files of RAM dumps; none: all QEMUs");
    estimate->add_flag("--raw", arguments_.raw, "the files are RAM from their first byte");
    CLI::Option* all = estimate->add_flag("--all", arguments_.all,
                                          "look closely at all RAM, however long it takes");
    estimate
        ->add_option("--sample", arguments_.sample_mib,
                     "look closely at so much RAM, infer the rest")
        ->check(CLI::Range(std::uint64_t{1}, std::uint64_t{1} << 30))
        ->type_name("MIB")
        ->capture_default_str()
        ->excludes(all);
  }

  void add_policy() {
    CLI::App* policy = app_.add_subcommand("policy", "the keys of the configuration, at run time");
    policy->require_subcommand(1);
    CLI::App* get = add(*policy, "get", "each key with its value and where that is from", [this] {
      const std::string& vm = arguments_.vm;
      return run_policy_get(arguments_.options, console_,
                            vm.empty() ? std::nullopt : std::optional(vm));
    });
    get->add_option("VM", arguments_.vm, "id, pid, name or uuid; the host's keys when absent");
    CLI::App* set = add(*policy, "set", "set keys of the host or of a VM, lastingly", [this] {
      return run_policy_set(arguments_.options, console_, arguments_.words);
    });
    set->add_option("WORDS", arguments_.words, "KEY= takes a value back; VM: of this VM alone")
        ->required()
        ->type_name("[VM] KEY=VALUE");
  }

  void add_operations() {
    CLI::App* attach = add("attach", "attach a VM whose agent is connected", [this] {
      return run_attach(arguments_.options, console_, arguments_.vm,
                        arguments_.incoming_finished ? control::Incoming::finished
                                                     : control::Incoming::not_known);
    });
    attach->add_option("VM", arguments_.vm, "pid or name")->required();
    attach->add_flag("--incoming-finished", arguments_.incoming_finished,
                     "the migration into this QEMU (-incoming) has ended");
    const auto dry_run = [this] { return arguments_.dry_run ? DryRun::yes : DryRun::no; };
    CLI::App* detach = add("detach", "bring every page of a VM back, then detach it", [=, this] {
      return run_unfold(arguments_.options, console_, arguments_.vm, dry_run());
    });
    detach->add_option("VM", arguments_.vm, "id, pid, name or uuid")->required();
    CLI::App* off = add("off", "bring every page of every VM back and fold no more", [=, this] {
      return run_unfold(arguments_.options, console_, std::nullopt, dry_run());
    });
    for (CLI::App* command : {detach, off}) {
      command->add_flag("--dry-run", arguments_.dry_run, "only tell memory and time it would take");
    }
    const auto vm = [this] {
      return arguments_.vm.empty() ? std::nullopt : std::optional(arguments_.vm);
    };
    CLI::App* pause = add("pause", "fold no more (one VM, or all); folded pages stay", [=, this] {
      return run_pause(arguments_.options, console_, vm(), Pausing::pause);
    });
    CLI::App* resume = add("resume", "fold again (one VM, or all)", [=, this] {
      return run_pause(arguments_.options, console_, vm(), Pausing::resume);
    });
    for (CLI::App* command : {pause, resume}) {
      command->add_option("VM", arguments_.vm, "id, pid, name or uuid; all when absent");
    }
  }

  const Console& console_;
  Arguments arguments_;
  CLI::App app_{"Folds the memory of KVM/QEMU guests.", "ramfold"};
  Action action_;
};

}  // namespace
}  // namespace ramfold::cli

int main(int argc, char** argv) {
  using namespace ramfold::cli;
  const Console console = standard_console();
  if (argc >= 2 && std::string_view(argv[1]) == "exec") return main_exec(argc, argv, console);
  return Parser(console).run(argc, argv);
}
