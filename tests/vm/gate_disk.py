#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Disks of a real QEMU and the gate: a guest is folded beside an O_DIRECT disk, data stays right.

A guest starts with a cache=none disk and is folded. It reads that disk into memory that had been
folded, loses it, gets a buffered one, then O_DIRECT ones again, and loses them.
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


def folding(rig, guest, when):
    view = rig.wait_folded(guest.name, FOLDED_PAGES_MIN)
    enough = (1 - SHRUNK_MIN) * view["pages"]["touched"] * 4096
    rig.wait(f"{when}: RAM file of less than {enough / 2**20:.0f} MiB",
             lambda: guest.ram_resident_bytes() < enough, 60)
    view = rig.vm(guest.name)
    print(f"{when}: {view['saved']['folded_pages']} pages folded, RAM file "
          f"{guest.ram_resident_bytes() >> 20} MiB", flush=True)
    if view["gate"] != "pinned":
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
        folding(rig, guest, "with an O_DIRECT disk")
        for _ in range(3):
            assert_sum(disk_sum(guest), sums["first"])
            guest.sh("echo 3 >/proc/sys/vm/drop_caches")
        print(guest.check(), flush=True)
        unplug(guest, "first")
        folding(rig, guest, "disk gone")

        plug(guest, "buffered", disks["buffered"], direct=False)
        assert_sum(disk_sum(guest), sums["buffered"])
        unplug(guest, "buffered")
        folding(rig, guest, "with a buffered disk")

        for cycle in range(3):
            plug(guest, "direct", disks["direct"], direct=True)
            assert_sum(disk_sum(guest), sums["direct"])
            print(guest.check(), flush=True)
            assert_sum(disk_sum(guest), sums["direct"])
            unplug(guest, "direct")
            print(f"cycle {cycle}: {rig.vm('disky')['pages']['held']} pages held", flush=True)
        folding(rig, guest, "at the end")
        print(guest.check())


def assert_sum(got, wanted):
    if got != wanted:
        raise vm.VmError("the guest read something else than the disk holds")


vm_tests.run(test, vm_tests.rig_parser(__doc__).parse_args())
