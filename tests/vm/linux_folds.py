#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Two small Linux guests are folded, discard, lose their daemon twice, and stay intact."""
import time

import vm_tests
from vm_tests import rig_of, vm

MEMORY_MIB = 256
FOLDED_PAGES_MIN = 8000  # of about 25,000 that such a guest has touched
SHRUNK_MIN = 0.6         # part of the touched memory that the RAM file no longer holds


def checked(guests, when):
    for one in guests:
        print(f"{when}: {one.name}: {one.check()}", flush=True)


def folded(rig, guests, when):
    """Both are folded, as the daemon says it and as the host sees it."""
    for one in guests:
        saved = rig.wait_folded(one.name, FOLDED_PAGES_MIN)["saved"]
        print(f"{when}: {one.name}: {saved['folded_pages']} pages folded, RAM file "
              f"{one.ram_resident_bytes() >> 20} MiB", flush=True)


def is_shrunk(rig, guest):
    """Touched memory is resident or folded: no reading from before the first fold is needed."""
    resident = guest.ram_resident_bytes()
    folded_bytes = rig.vm(guest.name)["saved"]["folded_pages"] * 4096
    return resident < (1 - SHRUNK_MIN) * (resident + folded_bytes)


def shrunk(rig, guests):
    for one in guests:
        rig.wait(f"{one.name}: RAM file of less than {1 - SHRUNK_MIN:.0%} of the touched memory",
                 lambda one=one: is_shrunk(rig, one), 60)


def new_memory_is_zero(guest, mib):
    """Fills memory that the guest got back and compares it: it has to be good for something."""
    guest.sh(f"mkdir -p /fill && mount -t tmpfs tmpfs /fill && "
             f"dd if=/dev/zero of=/fill/zero bs=1M count={mib} 2>/dev/null && "
             f"for i in $(seq {mib // 2}); do cp /bin/ramcheck /fill/a$i || exit 1; done; "
             "for f in /fill/a*; do cmp $f /bin/ramcheck || exit 1; done; "
             f"head -c {mib << 20} /dev/zero | cmp - /fill/zero && umount /fill")


def test(run_dir, options):
    with rig_of(options, run_dir) as rig, \
            vm.Vm(vm.guest("mini"), "m1", run_dir, memory_mib=MEMORY_MIB, env=rig.qemu_env,
                  balloon="plain") as first, \
            vm.Vm(vm.guest("mini"), "m2", run_dir, memory_mib=MEMORY_MIB, env=rig.qemu_env,
                  balloon="reporting") as second:
        guests = [first, second]
        for one in guests:
            one.wait_ready(120)
        folded(rig, guests, "running")
        shrunk(rig, guests)
        host = rig.host()["saved"]
        if not host["shared"]["pages"] or not host["zero"]["pages"] or host["net_bytes"] <= 0:
            raise vm.VmError(f"two equal guests share nothing, or nothing is saved: {host}")
        checked(guests, "folded")

        rig.kill_daemon()
        print(f"killed; answers again after {rig.start_daemon() * 1e3:.0f} ms", flush=True)
        checked(guests, "after the kill")
        folded(rig, guests, "after the kill")
        if rig.host()["restarts"] != 1:
            raise vm.VmError("the daemon did not take the VMs over")

        # Discards: of folded pages with the daemon at work, then with nobody there.
        first.set_balloon(MEMORY_MIB - 128)
        print(f"inflated: RAM file {first.ram_resident_bytes() >> 20} MiB", flush=True)
        first.set_balloon(MEMORY_MIB)
        new_memory_is_zero(first, 32)
        checked([first], "balloon")
        folded(rig, guests, "after the balloon")
        rig.kill_daemon()
        # QEMU discards without us. It may wait for a page that only the next daemon can bring back.
        first.qmp("balloon", value=(MEMORY_MIB - 96) << 20)
        time.sleep(2)
        rig.start_daemon()
        first.set_balloon(MEMORY_MIB - 96)
        first.set_balloon(MEMORY_MIB)
        new_memory_is_zero(first, 32)
        checked(guests, "balloon without a daemon")

        folded(rig, guests, "before detach")
        rig.detach("m1")
        states = {one["name"]: one["state"] for one in rig.snapshot()["vms"]}
        if states.pop("m1", None) != "detached" or list(states) != ["m2"]:
            raise vm.VmError(f"m1 is still attached: {rig.snapshot()['vms']}")
        checked(guests, "m1 detached")
        rig.off()
        checked(guests, "off")
        rig.kill_daemon()  # nothing may depend on it any more
        checked(guests, "without a daemon")


vm_tests.run(test, vm_tests.rig_parser(__doc__).parse_args())
