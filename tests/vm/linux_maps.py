#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Two equal Linux guests of one user map what they both read. Their daemon is killed, a balloon
discards, and everything goes back: of one VM at run time, at a detach, and at an off."""
import grp

import vm_tests
from vm_tests import rig_of, vm

MEMORY_MIB = 256
MAPPED_MIN = 300  # of the pages that the check reads and that both guests have
CONFIG = {"fold": {"when": "eager", "pass_seconds": 1.0, "stall_budget": 100, "map": True}}
AGENTS = {"agent_group": grp.getgrgid(vm_tests.NOBODY).gr_name}


def checked(guests, when):
    for one in guests:
        print(f"{when}: {one.name}: {one.check()}", flush=True)


def mapped(rig, guest):
    return rig.vm(guest.name)["pages"]["mapped"]


def maps(rig, guests, when):
    for one in guests:
        def enough(one=one):
            one.check()  # reads all of it, again and again
            return mapped(rig, one) >= MAPPED_MIN
        rig.wait(f"{one.name}: {MAPPED_MIN} mapped pages", enough, 120)
        counters = rig.vm(one.name)["counters"]
        print(f"{when}: {one.name}: {mapped(rig, one)} pages mapped, "
              f"{counters['restores']} were put back so far", flush=True)


def test(run_dir, options):
    with rig_of(options, run_dir, {**CONFIG, **AGENTS}) as rig:
        guest, home, wrapper, env = vm_tests.for_nobody(vm.guest("mini"), rig, run_dir)
        with vm.Vm(guest, "m1", home, memory_mib=MEMORY_MIB, wrapper=wrapper, env=env,
                   balloon="plain") as first, \
                vm.Vm(guest, "m2", home, memory_mib=MEMORY_MIB, wrapper=wrapper, env=env,
                      balloon="reporting") as second:
            guests = [first, second]
            for one in guests:
                one.wait_ready(120)
            maps(rig, guests, "running")
            checked(guests, "mapped")

            rig.kill_daemon()
            rig.start_daemon()
            maps(rig, guests, "after the kill")
            checked(guests, "after the kill")

            first.set_balloon(MEMORY_MIB - 128)
            first.set_balloon(MEMORY_MIB)
            maps(rig, guests, "after the balloon")
            checked(guests, "balloon")

            rig.command("policy", "set", "m1", "map=false")
            rig.wait("m1: no page is mapped", lambda: mapped(rig, first) == 0, 30)
            if mapped(rig, second) < MAPPED_MIN:
                raise vm.VmError("m2 has lost its mapped pages, too")
            checked(guests, "m1 maps no more")
            rig.detach("m2")
            checked(guests, "m2 detached")
            rig.off()
            checked(guests, "off")
            rig.kill_daemon()
            checked(guests, "without a daemon")


vm_tests.run(test, vm_tests.rig_parser(__doc__).parse_args())
