#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The main job on real VMs: guests of two kinds at work, verified from inside at the end.

The phases are methods of Demo, in the order in which they run; each prints what it does and the
time since the start. Whatever the host does to the guests' RAM between boot() and verify() must
not show in what verify() finds.
"""
import argparse
import sys
import threading
import time

sys.dont_write_bytecode = True  # nothing appears in the source tree
import vm  # noqa: E402

VMS = [("web-1", "web"), ("web-2", "web"), ("kv-1", "kv")]
MEMORY_MIB = 512
READY_S_MAX = 180
CHECK_S_MAX = 120


class Demo:
    """What is shown, on a directory for the VMs' files."""

    def __init__(self, run_dir, watch_s):
        self.run_dir = run_dir
        self.watch_s = watch_s
        self.began = time.monotonic()
        self.vms = []
        self.checks = {}  # name -> the lines that the guest said
        self.failures = []

    def say(self, text):
        print(f"[{time.monotonic() - self.began:4.0f} s] {text}", flush=True)

    def images(self):
        """Everything that may take minutes the first time and seconds afterwards."""
        self.say("guest images")
        vm.build_images(*sorted({kind for _, kind in VMS}))

    def boot(self, wrapper=(), env=None):
        """Starts all VMs at once and waits until the services in them answer."""
        self.say(f"starting {len(VMS)} VMs of {MEMORY_MIB} MiB: " +
                 ", ".join(f"{name} ({kind})" for name, kind in VMS))
        guests = {kind: vm.guest(kind) for kind in {kind for _, kind in VMS}}
        for name, kind in VMS:
            self.vms.append(vm.Vm(guests[kind], name, self.run_dir, memory_mib=MEMORY_MIB,
                                  wrapper=wrapper, env=env).start())
        self.each_vm(lambda one: self.say(
            f"{one.name}: its service answers, {one.wait_ready(READY_S_MAX).ready_s:.0f} s after "
            "the start"))
        if self.failures:
            raise vm.VmError("; ".join(self.failures))

    def watch(self):
        """The guests work; shows the RAM behind them."""
        self.say(f"guests at work for {self.watch_s} s; RAM of each, in MiB:")
        until = time.monotonic() + self.watch_s
        while time.monotonic() < until:
            time.sleep(min(5, max(0, until - time.monotonic())))
            self.say("   ".join(f"{one.name} {one.ram_resident_bytes() / 2**20:4.0f}"
                                for one in self.vms))

    def verify(self):
        """Every guest verifies its whole working set and asks its service for everything."""
        self.say("reading everything back from inside the guests")

        def check(one):
            self.checks[one.name] = []
            for ask in (one.check, one.check_service):
                self.checks[one.name].append(ask(CHECK_S_MAX))

        self.each_vm(check)
        for one in self.vms:
            for line in self.checks[one.name]:
                self.say(f"{one.name}: {line}")

    def table(self):
        """What was achieved, and whether the guests are intact. The exit status says it too."""
        rows = [("VM", "RAM MiB", "touched MiB", "guest checks")]
        for one in self.vms:
            passed = len(self.checks.get(one.name, [])) == 2
            touched = f"{one.ram_resident_bytes() / 2**20:.0f}"
            rows.append((one.name, str(one.memory_mib), touched, "passed" if passed else "FAILED"))
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        print()
        for row in rows:
            print("  ".join(text.ljust(width) for text, width in zip(row, widths)).rstrip())
        print()
        for failure in self.failures:
            print(f"FAILED: {failure}")
        self.say("guest checks FAILED" if self.failures else "guest checks passed")
        return 1 if self.failures else 0

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
        for one in self.vms:
            one.stop()


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--run-dir", help="keep the VMs' logs there")
    options.add_argument("--watch-s", type=int, default=30, help="how long the guests work")
    wanted = options.parse_args()
    vm.exit_on_signals()
    with vm.RunDir(wanted.run_dir) as run_dir:
        demo = Demo(run_dir, wanted.watch_s)
        try:
            demo.images()
            demo.boot()
            demo.watch()
            demo.verify()
            return demo.table()
        finally:
            demo.stop()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except vm.VmError as problem:
        sys.exit(f"demo: {problem}")
