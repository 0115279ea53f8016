#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A Linux guest is folded while its agent forgets pages, loses its daemon once, and stays intact.

The source that tells which pages the guest touches is changed while it runs."""
import vm_tests
from vm_tests import rig_of, vm

MEMORY_MIB = 256
FOLDED_PAGES_MIN = 4000
ASKED_PAGES_MIN = 1000
CONFIG = {"fold": {"when": "eager", "pass_seconds": 1.0, "stall_budget": 1.0},
          "scan": {"cpu": 0.5, "referenced": "forget"}}


def counter(rig, name, which):
    return rig.vm(name)["counters"][which]


def folded_and_asked(rig, guest, when):
    saved = rig.wait_folded(guest.name, FOLDED_PAGES_MIN)["saved"]
    before = counter(rig, guest.name, "pages_forgotten")
    rig.wait(f"{when}: {ASKED_PAGES_MIN} pages forgotten", lambda: counter(
        rig, guest.name, "pages_forgotten") >= before + ASKED_PAGES_MIN, 90)
    print(f"{when}: {saved['folded_pages']} pages folded, "
          f"{counter(rig, guest.name, 'pages_forgotten')} forgotten, "
          f"{counter(rig, guest.name, 'pages_retouched')} touched again", flush=True)
    print(f"{when}: {guest.check()}", flush=True)


def set_source(rig, source):
    done = rig.command("policy", "set", f"scan.referenced={source}")
    if done.returncode != 0:
        raise vm.VmError(f"scan.referenced={source}: {done.stderr}")


def refused(rig, source):
    """The daemon goes on without that source and says so."""
    set_source(rig, source)
    host = rig.host()
    if host["referenced"] != "off" or "referenced" not in [n["code"] for n in host["notices"]]:
        raise vm.VmError(f"{source}: {host['referenced']}, {host['notices']}")


def test(run_dir, options):
    with rig_of(options, run_dir, CONFIG) as rig, \
            vm.Vm(vm.guest("mini"), "m1", run_dir, memory_mib=MEMORY_MIB,
                  env=rig.qemu_env) as guest:
        guest.wait_ready(120)
        if rig.host()["referenced"] != "forget":
            raise vm.VmError(f"the source is {rig.host()['referenced']}")
        folded_and_asked(rig, guest, "running")
        view = rig.vm(guest.name)
        touched_s = counter(rig, guest.name, "touch_ns") / 1e9
        if not 0 < touched_s <= view["stalled_seconds"]:
            raise vm.VmError(f"touches took {touched_s} s, all stalls {view['stalled_seconds']} s")

        rig.kill_daemon()
        rig.start_daemon()
        folded_and_asked(rig, guest, "after the kill")

        refused(rig, "rwp")
        print(f"nobody is asked: {guest.check()}", flush=True)
        set_source(rig, "forget")
        folded_and_asked(rig, guest, "asked again")
        rig.off()
        print(f"off: {guest.check()}", flush=True)


vm_tests.run(test, vm_tests.rig_parser(__doc__).parse_args())
