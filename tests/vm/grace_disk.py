#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest on an O_DIRECT disk and the grace mode: refused if the operator does not accept its
risk, and reported loudly if the operator does."""
import dataclasses
import hashlib
import json
import os
import time

import vm_tests
from vm_tests import rig_of, vm

MEMORY_MIB = 256
DISK_MIB = 16
FOLDED_PAGES_MIN = 5000
CONFIG = {"gate": {"grace_seconds": 2}}
RISK = "--accept-data-loss-risk"


def make_disk(path):
    data = os.urandom(1 << 20) * (DISK_MIB // 2) + bytes(DISK_MIB // 2 << 20)
    path.write_bytes(data)
    return hashlib.sha256(data).hexdigest()


def refused(rig, guest):
    """The daemon serves, folds nothing, and its log has line, key, reason and remedy."""
    log = rig.log()
    for words in ("ramfold.toml:", "gate.grace_seconds:", RISK, "guest data may be lost",
                  "cache=writeback"):
        if words not in log:
            raise vm.VmError(f"the log does not say '{words}': {log}")
    rig.wait_reason(guest.name, "config")
    time.sleep(4)
    host, view = rig.host(), rig.vm(guest.name)
    if (host["state"] != "observe-only" or view["state"] != "connected"
            or view["saved"]["folded_pages"] != 0):
        raise vm.VmError(f"not refused: {host['state']}, {view['state']}, {view['saved']}")


def said_aloud(rig, guest):
    view = rig.vm(guest.name)
    codes = [reason["code"] for reason in view["reasons"]]
    if view["gate"] != "grace" or codes[0] != "grace" or "direct_io" not in codes:
        raise vm.VmError(f"{view['gate']}, {view['reasons']}")
    for command, words in ((["list"], "AT RISK"), (["status"], "RISK"),
                           (["show", guest.name], "GUEST DATA AT RISK")):
        shown = rig.command(*command)
        if shown.returncode != 0 or words not in shown.stdout:
            raise vm.VmError(f"{command}: {shown.stdout} {shown.stderr}")
    doctor = rig.command("doctor", "--json")
    failed = [check for check in json.loads(doctor.stdout)["checks"]
              if check["id"] == "daemon.grace" and check["outcome"] == "fail"]
    if doctor.returncode != 5 or len(failed) != 1 or failed[0]["subject"] != guest.name:
        raise vm.VmError(f"doctor: {doctor.returncode}, {failed}")
    if "GUEST DATA AT RISK" not in rig.log():
        raise vm.VmError("the log does not say it")


def test(run_dir, options):
    disk = run_dir / "direct.disk"
    checksum = make_disk(disk)
    kind = dataclasses.replace(vm.guest("mini"), machine="pc")
    with rig_of(options, run_dir, CONFIG) as rig:
        # The configuration that is refused is not read: eager folding, too, is what the file says.
        with vm.Vm(kind, "risky", run_dir, memory_mib=MEMORY_MIB, env=rig.qemu_env, extra=[
                "-blockdev", f"driver=file,node-name=d,filename={disk},cache.direct=on",
                "-device", "virtio-blk-pci,drive=d"]) as guest:
            guest.wait_ready(120)
            refused(rig, guest)
            print("without the acceptance: refused", flush=True)
            rig.stop_daemon()
            rig.daemon_arguments = [RISK]
            rig.start_daemon()
            for _ in range(3):
                rig.wait_folded("risky", FOLDED_PAGES_MIN)
                said_aloud(rig, guest)
                read = guest.sh("disk=$(basename $(ls -d /sys/block/vd?)); sha256sum </dev/$disk; "
                                "echo 3 >/proc/sys/vm/drop_caches", 120).split()[0]
                if read != checksum:
                    raise vm.VmError("the guest read something else than the disk holds")
                print(guest.check(), flush=True)
            view = rig.vm("risky")
            print(f"{view['saved']['folded_pages']} pages folded under a grace period", flush=True)
            # Without the acceptance again nothing more is folded; what is, is served.
            rig.stop_daemon()
            rig.daemon_arguments = []
            rig.start_daemon()
            if rig.vm("risky")["saved"]["folded_pages"] == 0:
                raise vm.VmError("nothing was folded any more")
            print(guest.check(), flush=True)


vm_tests.run(test, vm_tests.rig_parser(__doc__).parse_args())
