#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Compares the net saving that ramfold reports with the host's own figures.

The host's figure: the RAM files' blocks before, minus what they hold now, minus everything that
keeper and daemon occupy (their shared files and their private memory, from /proc).
The median of several comparisons counts, because the guests are at work. MemAvailable is shown
beside it; other processes of the host move it too.
"""
import os
import time

import vm_tests
from vm_tests import rig_of, vm

MEMORY_MIB = 512
AGREES_WITHIN = 0.03
SAMPLES = 9


def available():
    with open("/proc/meminfo", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("MemAvailable")) << 10


def files_of(pid, not_these):
    """Memory behind the shared files that a process maps or holds, but for the guests' RAM."""
    sizes = {}
    directory = f"/proc/{pid}/fd"
    for fd in os.listdir(directory):
        try:
            if os.readlink(f"{directory}/{fd}").startswith("/memfd:"):
                status = os.stat(f"{directory}/{fd}")
                if status.st_ino not in not_these:
                    sizes[status.st_ino] = status.st_blocks * 512
        except FileNotFoundError:
            continue  # closed meanwhile
    return sizes


def private(pid):
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        fields = dict(line.split(":", 1) for line in file if ":" in line)
    return sum(int(fields[name].split()[0]) << 10 for name in ("RssAnon", "VmPTE"))


def host_account(rig, guests):
    """(bytes in the guests' RAM files, bytes that ramfold occupies)."""
    rams = {block["inode"] for one in rig.snapshot()["vms"] for block in one["blocks"]}
    sizes = {}
    for process in (rig.keeper, rig.daemon):
        sizes.update(files_of(process.pid, rams))
    spent = sum(sizes.values()) + sum(private(p.pid) for p in (rig.keeper, rig.daemon))
    return sum(one.ram_resident_bytes() for one in guests), spent


def agree(rig, guests):
    """One comparison: (what the daemon says, what the host says), in bytes."""
    view = rig.snapshot()
    touched = sum(one["pages"]["touched"] for one in view["vms"]) * 4096
    resident, spent = host_account(rig, guests)
    return view["host"]["saved"]["net_bytes"], touched - resident - spent


# Events of a VM, and amounts of it, by the beginnings of their names.
EVENTS = ("folds_", "faults_", "pages_", "zero_filled_")
AMOUNTS = ("folded_", "clean_", "poisoned_")


def counters_add_up(rig):
    """The host's counters are the sums over its VMs; the guests go on between two reads of them."""
    view = rig.snapshot()
    host = view["host"]["counters"]
    if host["folds_stored"] == 0 or host["folded_content_pages"] == 0:
        raise vm.VmError(f"two guests are folded, and the host counts {host}")
    for name in view["vms"][0]["counters"]:
        parts = sum(one["counters"][name] for one in view["vms"])
        if name.startswith(EVENTS) and parts < host[name]:
            raise vm.VmError(f"{name}: the host says {host[name]}, its VMs {parts} later")


def events_stay(last, now):
    """The VMs have left: their events stay in the host's sums, their pages do not."""
    for name, value in last.items():
        if name.startswith(EVENTS) and now[name] < value:
            raise vm.VmError(f"{name} fell from {value} to {now[name]} when the VMs left")
        if name.startswith(AMOUNTS) and now[name] != 0:
            raise vm.VmError(f"{name} is {now[name]} although no VM is attached")


def test(run_dir, options):
    with rig_of(options, run_dir) as rig:
        rig.ask("pause")
        with vm.Vm(vm.guest("mini"), "a1", run_dir, memory_mib=MEMORY_MIB, balloon=None,
                   env=rig.qemu_env) as first, \
                vm.Vm(vm.guest("mini"), "a2", run_dir, memory_mib=MEMORY_MIB, balloon=None,
                      env=rig.qemu_env) as second:
            guests = [first, second]
            for one in guests:
                one.wait_ready(120)
            # The guests' own account of what they touched: nothing is folded, all of it is in RAM.
            rig.wait("both attached", lambda: rig.host()["vms_attached"] == 2, 30)
            before_ram, before_spent = host_account(rig, guests)
            before_free = available()
            rig.ask("resume")
            for one in guests:
                rig.wait_folded(one.name, 20000)
            time.sleep(3)
            # The two figures are not taken at one instant, and the guests go on working.
            pairs = []
            for _ in range(SAMPLES):
                pairs.append(agree(rig, guests))
                time.sleep(0.5)
            off, ours, host = sorted((abs(ours - host) / host, ours, host)
                                     for ours, host in pairs)[SAMPLES // 2]
            after_ram, after_spent = host_account(rig, guests)
            print(f"net saved {ours / 2**20:.1f} MiB, by the host's account "
                  f"{host / 2**20:.1f} MiB: {100 * off:.1f} % apart; "
                  f"RAM files {before_ram / 2**20:.1f} -> "
                  f"{after_ram / 2**20:.1f} MiB, ramfold {before_spent / 2**20:.1f} -> "
                  f"{after_spent / 2**20:.1f} MiB, MemAvailable "
                  f"{(available() - before_free) / 2**20:+.1f} MiB")
            if off > AGREES_WITHIN:
                raise vm.VmError("the daemon's account is not the host's")
            # Against the state before, which knows nothing of the daemon's idea of "touched".
            grew = before_ram - after_ram - after_spent
            if ours < 0.9 * grew:
                raise vm.VmError(f"{grew} bytes came free, {ours} are reported")
            counters_add_up(rig)
            last = rig.host()["counters"]
        rig.wait("none attached", lambda: rig.host()["vms_attached"] == 0, 30)
        events_stay(last, rig.host()["counters"])


vm_tests.run(test, vm_tests.rig_parser(__doc__).parse_args())
