#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Disks of a real QEMU and the gate: nothing is folded while one of them is O_DIRECT, and data
stays right.

A guest starts with a cache=none disk, loses it, gets a buffered one, gets another O_DIRECT one
while it is folded and reads it into memory that had been folded, and loses that again.
"""
import dataclasses
import hashlib
import os
import time

import vm_tests
from vm_tests import rig_of, vm
from patience import deadline

MEMORY_MIB = 256
DISK_MIB = 24
FOLDED_PAGES_MIN = 8000
SHRUNK_MIN = 0.4  # part of its RAM file that has to go; the disk's cache comes and stays a while
QUIET_S = 5  # several passes


def make_disk(path):
    data = os.urandom(1 << 20) * (DISK_MIB // 2) + bytes(DISK_MIB // 2 << 20)
    path.write_bytes(data)
    return hashlib.sha256(data).hexdigest()


def blockdev(name, path, direct):
    return {"driver": "file", "node-name": name, "filename": str(path), "cache": {"direct": direct}}


def plug(guest, name, path, direct):
    guest.qmp("blockdev-add", **blockdev(name, path, direct))
    guest.qmp("device_add", driver="virtio-blk-pci", drive=name, id=f"dev-{name}")


def unplug(guest, name, timeout_s=60):
    guest.qmp("device_del", id=f"dev-{name}")
    end = deadline(timeout_s)
    while True:  # the guest lets go of the device, then the node is free
        try:
            guest.qmp("blockdev-del", **{"node-name": name})
            return
        except vm.VmError:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)


def disk_sum(guest):
    """The guest reads its only disk through its page cache, whatever its letter is by now."""
    return guest.sh("for i in $(seq 100); do ls /sys/block/vd? -d >/dev/null 2>&1 && break; "
                    "sleep 0.1; done; disk=$(basename $(ls -d /sys/block/vd?)); "
                    "sha256sum </dev/$disk", 120).split()[0]


def stays(rig, name, what, condition, seconds):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        view = rig.vm(name)
        if not condition(view):
            raise vm.VmError(f"{what}: {view['state']}, {view['gate']}, {view['saved']}")
        time.sleep(0.3)


def closed_by_disk(rig, name, path):
    view = rig.wait_reason(name, "direct_io")
    reason = next(one for one in view["reasons"] if one["code"] == "direct_io")
    print(f"observed only: {reason['text']}; remedy: {reason['remedy']}", flush=True)
    if view["gate"] != "closed" or view["state"] != "observe-only":
        raise vm.VmError(f"the gate is {view['gate']}, the state {view['state']}")
    if path.name not in reason["text"] or not reason["remedy"]:
        raise vm.VmError(f"the reason does not help: {reason}")


def folding(rig, guest, when):
    view = rig.wait_folded(guest.name, FOLDED_PAGES_MIN)
    enough = (1 - SHRUNK_MIN) * view["pages"]["touched"] * 4096
    rig.wait(f"{when}: RAM file of less than {enough / 2**20:.0f} MiB",
             lambda: guest.ram_resident_bytes() < enough, 60)
    view = rig.vm(guest.name)
    print(f"{when}: {view['saved']['folded_pages']} pages folded, RAM file "
          f"{guest.ram_resident_bytes() >> 20} MiB", flush=True)
    if view["gate"] != "buffered":
        raise vm.VmError(f"{when}: gate {view['gate']}")


def test(run_dir, options):
    disks = {name: run_dir / f"{name}.disk" for name in ("first", "buffered", "direct")}
    sums = {name: make_disk(path) for name, path in disks.items()}
    kind = dataclasses.replace(vm.guest("mini"), machine="pc")  # unplugs without a root port
    with rig_of(options, run_dir) as rig, \
            vm.Vm(kind, "disky", run_dir, memory_mib=MEMORY_MIB, env=rig.qemu_env, extra=[
                "-blockdev", f"driver=file,node-name=first,filename={disks['first']},"
                             "cache.direct=on",
                "-device", "virtio-blk-pci,drive=first,id=dev-first"]) as guest:
        guest.wait_ready(120)
        closed_by_disk(rig, "disky", disks["first"])
        stays(rig, "disky", "folded beside an O_DIRECT disk",
              lambda view: view["saved"]["folded_pages"] == 0, QUIET_S)
        assert_sum(disk_sum(guest), sums["first"])
        unplug(guest, "first")
        folding(rig, guest, "disk gone")

        plug(guest, "buffered", disks["buffered"], direct=False)
        assert_sum(disk_sum(guest), sums["buffered"])
        unplug(guest, "buffered")
        folding(rig, guest, "with a buffered disk")

        for cycle in range(3):
            plug(guest, "direct", disks["direct"], direct=True)
            assert_sum(disk_sum(guest), sums["direct"])
            closed_by_disk(rig, "disky", disks["direct"])
            print(guest.check(), flush=True)
            assert_sum(disk_sum(guest), sums["direct"])
            unplug(guest, "direct")
            rig.wait("the gate opens again", lambda: rig.vm("disky")["gate"] == "buffered", 30)
            print(f"cycle {cycle}: open again", flush=True)
        folding(rig, guest, "at the end")
        print(guest.check())


def assert_sum(got, wanted):
    if got != wanted:
        raise vm.VmError("the guest read something else than the disk holds")


vm_tests.run(test, vm_tests.rig_parser(__doc__).parse_args())
