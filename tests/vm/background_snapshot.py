#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Background snapshots of a real QEMU, which uses a userfaultfd of its own for them: all pages of
the VM come back before, nothing is folded meanwhile, and after that the VM is folded again without
an operator.

The capability is set and unset; then a guest at work is saved to a file, twice, the second time
after it was folded again; and once more with a daemon that is killed in the middle.
"""
import time

import vm_tests
from vm_tests import rig_of, vm
from patience import deadline

MEMORY_MIB = 192
FOLDED_PAGES_MIN = 6000
AGAIN_S = 120


def capability(guest, on):
    guest.qmp("migrate-set-capabilities", 120, capabilities=[
        {"capability": "background-snapshot", "state": on}])


def all_is_back(rig, guest, when):
    view = rig.vm(guest.name)
    if view["saved"]["folded_pages"] or view["gate"] != "closed":
        raise vm.VmError(f"{when}: {view['saved']['folded_pages']} pages are folded, "
                         f"gate {view['gate']}")


def folded_again(rig, guest, when):
    began = time.monotonic()
    view = rig.wait_folded(guest.name, FOLDED_PAGES_MIN, AGAIN_S)
    print(f"{when}: {view['saved']['folded_pages']} pages folded after "
          f"{time.monotonic() - began:.0f} s, id {view['id']}", flush=True)
    print(guest.check(), flush=True)


def snapshot(rig, guest, path, meanwhile=lambda: None):
    capability(guest, True)
    all_is_back(rig, guest, "the capability is set")
    guest.qmp("migrate", 120, uri=f"exec:cat >{path}")
    meanwhile()
    end = deadline(120)
    while (status := guest.qmp("query-migrate").get("status")) != "completed":
        if status == "failed" or time.monotonic() > end:
            raise vm.VmError(f"the snapshot: {guest.qmp('query-migrate')}")
        all_is_back(rig, guest, f"the snapshot is {status}")
        time.sleep(0.1)
    capability(guest, False)
    if path.stat().st_size < 1 << 20:
        raise vm.VmError(f"the snapshot has {path.stat().st_size} bytes")
    print(f"saved {path.stat().st_size >> 20} MiB: {guest.check()}", flush=True)


def restarted(rig):
    rig.kill_daemon()
    rig.start_daemon()


def test(run_dir, options):
    with rig_of(options, run_dir) as rig, \
            vm.Vm(vm.guest("mini"), "saved", run_dir, memory_mib=MEMORY_MIB,
                  env=rig.qemu_env) as guest:
        guest.wait_ready(120)
        rig.wait_folded("saved", FOLDED_PAGES_MIN)
        capability(guest, True)
        all_is_back(rig, guest, "the capability is set")
        reason = rig.reasons("saved")["other_userfaultfd"]
        print(f"{reason[0]}; remedy: {reason[1]}", flush=True)
        capability(guest, False)
        folded_again(rig, guest, "set and unset")
        for number in range(2):
            snapshot(rig, guest, run_dir / f"snapshot{number}")
            folded_again(rig, guest, f"snapshot {number}")
        snapshot(rig, guest, run_dir / "killed", lambda: restarted(rig))
        folded_again(rig, guest, "a daemon killed meanwhile")


vm_tests.run(test, vm_tests.rig_parser(__doc__).parse_args())
