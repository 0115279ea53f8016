#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The daemon's self-test, and its program that asks who holds a page, on the kernels of Debian.

    pin_kernels.py PROGRAM here       on the kernel that runs now
    pin_kernels.py PROGRAM trixie     in a guest with Debian 13's kernel, 6.12: all holds
    pin_kernels.py PROGRAM bookworm   in a guest with Debian 12's kernel, 6.1, which is too old

PROGRAM is kernel_facts. In a guest it runs a second time after the kernel was locked down.
"""
import os
import pathlib
import re
import shutil
import subprocess
import time

import vm_tests
from vm_tests import vm

SWAP_MIB = 16
BOOT_S = 200  # some 10 s where the host is idle

# Large folios and swap are there, so that nothing is skipped for want of them.
INIT = """#!/bin/busybox sh
export PATH=/bin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t securityfs securityfs /sys/kernel/security
while read -r module; do insmod "/modules/$module"; done </modules/order
tries=0
until [ -b /dev/vda ] || [ $tries = 100 ]; do sleep 0.1; tries=$((tries + 1)); done
mkswap /dev/vda >/dev/null && swapon /dev/vda
echo advise >/sys/kernel/mm/transparent_hugepage/shmem_enabled
run() { echo "RUN $1"; kernel_facts; echo "END $1 $?"; }
run none
echo confidentiality >/sys/kernel/security/lockdown
run confidentiality
echo GUEST-READY
reboot -f
"""

# What the self-test must have tried on a kernel that is new enough.
PIN_FACTS = {"pin-quiet", "pin-hole", "pin-of-write", "pin-waits-at-guard", "pin-of-buffer",
             "pin-second-mapping", "pin-swapped", "pin-large"}
# Where the machine cannot give what a fact needs, the fact says so.
MAY_LACK = {"pin-of-buffer", "pin-swapped", "pin-large"}


def expect(holds, otherwise, report):
    if not holds:
        raise vm.VmError(f"{otherwise}:\n{report}")


class Report:
    """What kernel_facts printed."""

    def __init__(self, text):
        self.text = text
        lines = dict(re.findall(r"^([a-z][^:\n]*): (.*)$", text, re.M))
        self.kernel = lines.get("kernel", "")
        self.lockdown = lines.get("lockdown", "")
        self.program = lines.get("pin program", "")
        self.folding = lines.get("folding", "")
        self.pins = lines.get("pins", "")
        self.facts = {name[5:]: said for name, said in lines.items() if name.startswith("fact ")}

    def check(self, holds, otherwise):
        expect(holds, otherwise, self.text)

    def check_all_holds(self, may_lack):
        """Every fact holds, but that those of `may_lack` may have been skipped with a reason."""
        self.check(self.program == "loaded", "the kernel does not load the program")
        self.check(PIN_FACTS <= self.facts.keys(), "facts of pins are missing")
        for name, said in self.facts.items():
            lacks = name in may_lack and re.fullmatch("skipped: (?!not tried$).+", said)
            self.check(said == "holds" or lacks, f"{name} does not hold")
        self.check(self.folding == self.pins == "yes", "a fact stands against folding")

    def check_no_program(self, reason, remedy):
        self.check(self.program.startswith("refused: ") and reason in self.program and
                   remedy in self.program, f"the program is not refused with {reason!r}")
        self.check(all(self.facts.get(name) == "skipped: not tried" for name in PIN_FACTS),
                   "a fact of pins was tried without the program")
        self.check(self.pins.startswith("no: "), "pins are known without the program")


def libraries(program):
    """The shared libraries and the loader of a program, as paths."""
    listed = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    return re.findall(r"(/\S+) \(0x", listed)


def make_initrd(kernel, program, at):
    tree = at / "tree"
    for name in ("bin", "dev", "proc", "sys", "tmp"):
        (tree / name).mkdir(parents=True)
    shutil.copytree(kernel / "modules", tree / "modules",
                    ignore=lambda _, names: [n for n in names if not n.startswith("virtio")])
    order = (kernel / "modules/order").read_text().split()
    (tree / "modules/order").write_text(
        "".join(f"{name}\n" for name in order if name.startswith("virtio")))
    shutil.copy(kernel / "busybox", tree / "bin")
    shutil.copy(program, tree / "bin/kernel_facts")
    for library in libraries(program):
        to = tree / library[1:]
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, to)
    init = tree / "init"
    init.write_text(INIT)
    init.chmod(0o755)
    with open(at / "initrd", "wb") as out:
        subprocess.run("find . | sort | cpio --quiet -o -H newc -R 0:0", shell=True, check=True,
                       cwd=tree, stdout=out)
    shutil.rmtree(tree)
    return at / "initrd"


def run_in_guest_of(suite, program, run_dir):
    """The reports of kernel_facts in a guest with a suite's kernel, by how it was locked down."""
    built = subprocess.run([vm.SCRIPTS / "guests.sh", "kernel", suite], stdout=subprocess.PIPE,
                           text=True, check=False)
    if built.returncode:
        raise vm.VmError(f"the kernel of {suite} could not be had")
    kernel = pathlib.Path(built.stdout.strip())
    swap = run_dir / "swap"
    with open(swap, "wb") as file:
        file.truncate(SWAP_MIB << 20)
    guest = vm.Guest(kind="pins", kernel=str(kernel / "vmlinuz"),
                     initrd=str(make_initrd(kernel, program, run_dir)), disk=str(swap),
                     append="console=ttyS0 panic=-1 mitigations=off quiet no_timer_check")
    with vm.Vm(guest, suite, run_dir, memory_mib=256, balloon=None) as machine:
        machine.wait_ready(BOOT_S)
        text = machine.serial().replace("\r", "")
    runs = re.findall(r"^RUN (\w+)\n(.*?)^END \1 0$", text, re.M | re.S)
    print(f"{suite}: {machine.ready_s:.1f} s")
    expect(len(runs) == 2, "not all runs ended well", text)
    return {how: Report(said) for how, said in runs}


def test_too_old(reports):
    report = reports["none"]
    report.check(report.kernel.startswith("6.1."), "another kernel than 6.1")
    report.check_no_program("older than Linux 6.7", "boot Linux 6.7 or newer")
    report.check(all(said == "skipped: not tried" for name, said in report.facts.items()
                     if name not in ("kernel-version", "userfaultfd-features")),
                 "a fact was tried on a kernel that is too old")
    report.check(report.folding.startswith(f"no: kernel-version: this is Linux {report.kernel}; "
                                           "boot the host with"), "folding is not refused")
    return report


def test_good(reports):
    # Secure Boot needs "integrity", which forbids less. "confidentiality" forbids the helpers that
    # read kernel memory, and the program calls none of them.
    for level, report in reports.items():
        report.check(report.kernel.startswith("6.12."), "another kernel than 6.12")
        report.check(report.lockdown == level, f"the lockdown is not {level!r}")
        report.check_all_holds(may_lack=set())
    return reports["none"]


def test_here(program):
    if not os.access("/dev/userfaultfd", os.R_OK | os.W_OK):
        vm.skip("there is no /dev/userfaultfd to use")
    report = Report(subprocess.run([program], capture_output=True, text=True, check=True).stdout)
    # Too old, no types or no rights. That the kernel refuses the program itself is a failure.
    if re.search("older than|does not describe|Operation not permitted|not implemented",
                 report.program):
        vm.skip(report.program)
    report.check_all_holds(MAY_LACK)
    return report


def test(run_dir, options):
    began = time.monotonic()
    if options.kernel == "here":
        report = test_here(options.program)
    else:
        judge = {"trixie": test_good, "bookworm": test_too_old}[options.kernel]
        report = judge(run_in_guest_of(options.kernel, options.program, run_dir))
    print(report.text)
    print(f"{time.monotonic() - began:.0f} s")


def main():
    options = vm_tests.parser(__doc__)
    options.add_argument("program", type=pathlib.Path)
    options.add_argument("kernel", choices=["here", "trixie", "bookworm"])
    vm_tests.run(test, options.parse_args())


main()
