#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""ramfold's main job on real VMs: guests of two kinds at work are folded, and verified from inside.

The phases are methods of Demo, in the order in which they run; each prints what it does and the
time since the start. The daemon is killed with SIGKILL once while a guest verifies its memory.
Ends with a table, and with status 1 when a guest's check failed or nothing was saved.
"""
import argparse
import os
import pathlib
import re
import subprocess
import sys
import threading
import time

sys.dont_write_bytecode = True  # nothing appears in the source tree
import ramfold_rig  # noqa: E402
import vm  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[1]
VMS = [("web-1", "web"), ("web-2", "web"), ("kv-1", "kv")]
TARGETS = ["src/daemon/ramfoldd", "src/keeper/ramfold-keeper", "src/agent/libramfold-agent.so",
           "src/cli/ramfold"]
MEMORY_MIB = 512
READY_S_MAX = 240
CHECK_S_MAX = 180
SHOW_EVERY_S = 3
# Folds at once instead of waiting for memory to run short, so that there is something to see.
CONFIG = {"fold": {"when": "eager", "pass_seconds": 2.0, "stall_budget": 100}, "scan": {"cpu": 0.5}}


def mib(count):
    return count / 2**20


def table(rows, right=()):
    """Lines of a table: the first row is the head; columns in `right` are aligned to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        yield "  ".join(text.rjust(width) if i in right else text.ljust(width)
                        for i, (text, width) in enumerate(zip(row, widths))).rstrip()


class Demo:
    """What is shown, on a directory for the files of VMs and daemon."""

    def __init__(self, run_dir, build_dir, watch_s):
        self.run_dir = run_dir
        self.build_dir = pathlib.Path(build_dir).resolve()
        self.watch_s = watch_s
        self.began = time.monotonic()
        self.vms = []
        self.rig = None
        self.checks = {}  # name -> the lines that the guest said
        self.failures = []
        self.folded = None    # what the daemon said when it had folded all it could
        self.resident = {}    # name -> bytes that the RAM files held then, by the host's account
        self.working_s = 0.0  # since the first VM was attached
        self._line_open = False

    def say(self, text):
        self.end_line()
        print(f"[{time.monotonic() - self.began:4.0f} s] {text}", flush=True)

    def end_line(self):
        if self._line_open:
            print()
            self._line_open = False

    def refresh(self, text):
        """A line that replaces itself on a terminal, and is one of many in a file."""
        line = f"[{time.monotonic() - self.began:4.0f} s] {text}"
        if sys.stdout.isatty():
            print(f"\r\033[K{line[:os.get_terminal_size().columns - 1]}", end="", flush=True)
            self._line_open = True
        else:
            print(line, flush=True)

    # ---- phases ---------------------------------------------------------------------------------

    def build(self):
        """The four programs, nothing else."""
        log = self.run_dir / "build.log"
        self.say(f"building in {self.build_dir.name}/")
        with open(log, "w", encoding="utf-8") as out:
            if not (self.build_dir / "build.ninja").exists():
                self._must(["meson", "setup", "-Dtests=false", str(self.build_dir), str(ROOT)], out)
            listed = subprocess.run(["ninja", "-C", str(self.build_dir), "-t", "targets", "all"],
                                    stdout=subprocess.PIPE, text=True, check=True).stdout
            known = {line.split(":", 1)[0] for line in listed.splitlines()}
            self._must(["ninja", "-C", str(self.build_dir), *(t for t in TARGETS if t in known)],
                       out, progress=True)

    def _must(self, command, out, progress=False):
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              text=True) as work:
            last, shown = [], time.monotonic()
            for line in work.stdout:
                out.write(line)
                last = [*last[-30:], line]
                step = re.match(r"\[(\d+)/(\d+)\]", line)
                if progress and step and time.monotonic() - shown > 2 * SHOW_EVERY_S:
                    shown = time.monotonic()
                    self.refresh(f"  step {step[1]} of {step[2]}")
        if work.returncode:
            sys.stderr.writelines(last)
            raise vm.VmError(f"{command[0]} failed")

    def images(self):
        """Everything that may take minutes the first time and seconds afterwards."""
        self.say("guest images")
        vm.build_images(*sorted({kind for _, kind in VMS}))

    def start_ramfold(self):
        self.rig = ramfold_rig.Rig(self.build_dir, self.run_dir, CONFIG)
        self.rig.start()
        host = self.rig.host()
        self.say(f"ramfold {host['version']} on Linux {host['kernel']}: "
                 "keeper and daemon are there")

    def boot(self):
        """Starts all VMs at once and waits until the services in them answer."""
        self.say(f"starting {len(VMS)} VMs of {MEMORY_MIB} MiB: " +
                 ", ".join(f"{name} ({kind})" for name, kind in VMS))
        guests = {kind: vm.guest(kind) for kind in {kind for _, kind in VMS}}
        # `ramfold exec` puts the agent into QEMU.
        wrapper = [str(self.rig.cli), "exec", "--"] if self.rig.cli.exists() else []
        env = {"RAMFOLD_AGENT_SOCKET": str(self.rig.dir / "agent.sock")} if wrapper \
            else self.rig.qemu_env
        self.boot_began = time.monotonic()
        for name, kind in VMS:
            self.vms.append(vm.Vm(guests[kind], name, self.run_dir, memory_mib=MEMORY_MIB,
                                  wrapper=wrapper, env=env).start())
        self.each_vm(lambda one: self.say(
            f"{one.name}: its service answers, {one.wait_ready(READY_S_MAX).ready_s:.0f} s after "
            "the start"))
        if self.failures:
            raise vm.VmError("; ".join(self.failures))

    def watch(self, seconds):
        """The guests work, and ramfold folds what they leave alone."""
        until = time.monotonic() + seconds
        while True:
            snapshot = self.rig.snapshot()
            self.refresh(self.progress(snapshot))
            left = until - time.monotonic()
            if left <= 0:
                return snapshot
            time.sleep(min(SHOW_EVERY_S, left))

    def progress(self, snapshot):
        host, vms = snapshot["host"], snapshot["vms"]
        saved = host["saved"]
        resident = sum(one.ram_resident_bytes() for one in self.vms)
        parts = [f"{name} {mib(saved[name]['saved_bytes']):.0f}"
                 for name in ("zero", "shared", "compressed")]
        return (f"MiB: touched {sum(one['pages']['touched'] for one in vms) / 256:.0f}, in RAM "
                f"{mib(resident):.0f}; {', '.join(parts)}; net saved {mib(saved['net_bytes']):.0f}")

    def kill(self):
        """SIGKILL while a guest reads back what was folded."""
        victim = self.vms[0]
        verdict = []

        def verify():
            try:
                verdict.append(victim.check(CHECK_S_MAX))
            except (vm.VmError, OSError) as problem:
                self.failures.append(f"{victim.name}, during the restart: {problem}")

        reader = threading.Thread(target=verify)
        reader.start()
        time.sleep(0.5)
        folded = self.rig.host()["saved"]["folded_pages"]
        self.say(f"SIGKILL to ramfoldd with {folded} pages folded, while {victim.name} verifies "
                 "its memory")
        killed = time.monotonic()
        self.rig.kill_daemon()
        self.rig.start_daemon()
        answered = time.monotonic() - killed
        line = re.findall(r"faults are served ([\d.]+) ms after the start", self.rig.log())
        served = f"faults were served {line[-1]} ms after its start; " if line else ""
        self.say(f"restarted: {served}killed and back in {answered * 1e3:.0f} ms altogether")
        reader.join()
        for said in verdict:
            self.say(f"{victim.name}: {said}")

    def measure(self):
        """What the table shows as saved: before reading everything back undoes it."""
        self.folded = self.rig.snapshot()
        self.resident = {one.name: one.ram_resident_bytes() for one in self.vms}
        self.cpu = self.rig.cpu_seconds() / (time.monotonic() - self.boot_began)

    def verify(self):
        """Every guest verifies its whole working set and asks its service for everything."""
        self.say("reading everything back from inside the guests")

        def check(one):
            self.checks[one.name] = []
            for ask in (one.check, one.check_service):
                self.checks[one.name].append(ask(CHECK_S_MAX))

        self.each_vm(check)
        for one in self.vms:
            for line in self.checks.get(one.name, []):
                self.say(f"{one.name}: {line}")
        self.after = self.rig.snapshot()

    def report(self):
        """What was achieved, and whether the guests are intact. The exit status says it too."""
        self.end_line()
        print()
        views = {one["name"]: one for one in self.folded["vms"]}
        rows = [("MiB", "RAM", "touched", "still in RAM", "zero", "shared", "compressed",
                 "net saved", "guest checks")]
        for one in self.vms:
            view = views[one.name]
            passed = len(self.checks.get(one.name, [])) == 2
            rows.append((one.name, str(one.memory_mib), *self.columns(
                view["pages"]["touched"], self.resident[one.name], view["saved"]),
                "passed" if passed else "FAILED"))
        host = self.folded["host"]
        saved = host["saved"]
        rows.append(("together", str(sum(one.memory_mib for one in self.vms)), *self.columns(
            sum(one["pages"]["touched"] for one in views.values()),
            sum(self.resident.values()), saved), ""))
        print("\n".join(table(rows, right=range(1, 8))))
        print()
        print("\n".join(table(self.fault_rows(), right=range(1, 5))))
        print()
        print(f"ramfold itself: {mib(host['spent']['overhead_bytes']):.1f} MiB beside "
              f"{mib(host['spent']['arena_used_bytes']):.1f} MiB of stored pages, "
              f"{100 * self.cpu:.0f} % of one core")
        if saved["net_bytes"] <= 0:
            self.failures.append("nothing was saved")
        for failure in self.failures:
            print(f"FAILED: {failure}")
        self.say("guest checks FAILED" if self.failures else "guest checks passed")
        return 1 if self.failures else 0

    @staticmethod
    def columns(touched_pages, resident, saved):
        return (f"{touched_pages / 256:.0f}", f"{mib(resident):.0f}",
                *(f"{mib(saved[part]['saved_bytes']):.0f}"
                  for part in ("zero", "shared", "compressed")), f"{mib(saved['net_bytes']):.0f}")

    def fault_rows(self):
        """Since the restart, over all VMs; of the quantiles the slowest VM's."""
        rows = [("faults since the restart", "count", "p50 us", "p99 us", "longest us")]
        kinds = {}
        for one in self.after["vms"]:
            for fault in one["faults"]:
                kinds.setdefault(fault["kind"], []).append(fault)
        for kind, faults in kinds.items():
            worst = [max(fault[field] for fault in faults) / 1e3
                     for field in ("p50_ns", "p99_ns", "max_ns")]
            rows.append((kind, str(sum(fault["count"] for fault in faults)),
                         *(f"{value:.0f}" for value in worst)))
        return rows

    def each_vm(self, work):
        """Runs work(vm) for all VMs at once. Failures are kept; the others go on."""
        def guarded(one):
            try:
                work(one)
            except (vm.VmError, OSError) as problem:
                self.failures.append(f"{one.name}: {problem}")

        threads = [threading.Thread(target=guarded, args=(one,)) for one in self.vms]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def stop(self):
        self.end_line()
        for one in self.vms:
            one.stop()
        if self.rig is not None:
            self.rig.stop()

    def run(self):
        self.build()
        self.images()
        self.start_ramfold()
        self.boot()
        self.say(f"guests at work for {self.watch_s} s")
        self.watch(self.watch_s / 2)
        self.kill()
        self.watch(self.watch_s / 2)
        self.measure()
        self.verify()
        return self.report()


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--build-dir", default=str(ROOT / "build"))
    options.add_argument("--run-dir", help="keep the logs of VMs and daemon there")
    options.add_argument("--watch-s", type=int, default=60, help="how long the guests work")
    wanted = options.parse_args()
    if os.geteuid() != 0:
        sys.exit("demo: folding needs root")
    vm.exit_on_signals()
    with vm.RunDir(wanted.run_dir) as run_dir:
        demo = Demo(run_dir, wanted.build_dir, wanted.watch_s)
        try:
            return demo.run()
        finally:
            demo.stop()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except vm.VmError as problem:
        sys.exit(f"demo: {problem}")
