#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests under real KVM verify every page while they are folded and the daemon is killed."""
import time

import vm_tests
from vm_tests import rig_of, vm
from patience import deadline

FOLDED_PART = 0.6  # of the pages that the guest verifies
ROUNDS = 8         # so many rounds verify every page once


def rounds(guest):
    return guest.serial().count(" ok pages=")


def intact(guest):
    if "BAD" in guest.serial():
        raise vm.VmError(f"{guest.name}: {guest.serial()[-500:]}")


def wait_backoff(rig, name, seconds=60):
    """Pages that every round brings back are held back, and `ramfold show` says so."""
    end = deadline(seconds)
    while True:
        view = rig.vm(name)["backoff"]
        if view["held_pages"] and view["returns"]:
            return
        if time.monotonic() > end:
            raise vm.VmError(f"{name}: back-off after {seconds} s: {view}")
        time.sleep(0.2)


def test(run_dir, options):
    flat = vm.flat_guest(options.elf, mib=options.mib, pace_ms=50)
    pages = FOLDED_PART * options.mib * 256
    with rig_of(options, run_dir, {"fold": {"when": "eager", "pass_seconds": 0.5,
                                            "stall_budget": 100}}) as rig, \
            vm.Vm(flat, "flat1", run_dir, memory_mib=options.mib + 64, accel=options.accel,
                  env=rig.qemu_env) as first, \
            vm.Vm(flat, "flat2", run_dir, memory_mib=options.mib + 64, accel=options.accel,
                  env=rig.qemu_env) as second:
        guests = [first, second]
        for one in guests:
            one.wait_ready(120)
        for one in guests:
            view = rig.wait_folded(one.name, pages)
            resident = one.ram_resident_bytes()
            print(f"{one.name}: {view['saved']['folded_pages']} of {view['pages']['touched']} "
                  f"pages folded, RAM file {resident / 2**20:.1f} MiB", flush=True)
            if resident > 0.7 * view["pages"]["touched"] * 4096:
                raise vm.VmError(f"{one.name}: its RAM file holds {resident} bytes")
        shared = rig.host()["saved"]["shared"]
        if not shared["pages"]:
            raise vm.VmError("two equal guests share nothing")
        for kill in range(2):
            start = [rounds(one) for one in guests]
            rig.kill_daemon()
            print(f"kill {kill + 1}: back after {rig.start_daemon() * 1e3:.0f} ms", flush=True)
            for one, seen in zip(guests, start):
                one.wait_serial(r"ROUND \d+ ok", 120, count=seen + ROUNDS)
                intact(one)
        for one in guests:
            rig.wait_folded(one.name, pages)
            wait_backoff(rig, one.name)
        rig.detach("flat1")
        rig.off()
        start = [rounds(one) for one in guests]
        for one, seen in zip(guests, start):
            one.wait_serial(r"ROUND \d+ ok", 120, count=seen + ROUNDS)
            intact(one)
            print(f"{one.name}: {rounds(one)} rounds verified", flush=True)


parser = vm_tests.rig_parser(__doc__)
parser.add_argument("elf")
parser.add_argument("--mib", type=int, default=8)
parser.add_argument("--accel", default="kvm")
wanted = parser.parse_args()
if wanted.accel == "kvm" and vm.kvm_unusable():
    vm.skip(vm.kvm_unusable())
vm_tests.run(test, wanted)
