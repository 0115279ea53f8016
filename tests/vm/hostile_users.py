#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""QEMU as people really start it, and other processes that use its memory.

  dae    -daemonize, folds; then another process maps its RAM: everything comes back, for good
  box    an unprivileged user under -sandbox, folds in a group of its own
  numa   two RAM blocks, folds; RAM that is added later is left alone
  lock   locked in memory: only observed
"""
import grp
import mmap
import os
import time

import vm_tests
from vm_tests import rig_of, vm

MEMORY_MIB = 256
ADDED_MIB = 128
FOLDED_PAGES_MIN = 8000
UNFOLD_S_MAX = 60
SANDBOX = ["-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"]


class DaemonizedVm(vm.Vm):
    """Its first process ends once QEMU is on its own."""

    def start(self):
        pidfile = self.run_dir / f"{self.name}.pid"
        self.extra += ["-daemonize", "-pidfile", str(pidfile)]
        super().start()
        if self.process.wait(60):
            raise vm.VmError(f"{self.name}: {self.log()}")
        self.own_pid = int(pidfile.read_text())
        self.ticks = vm.start_ticks(self.own_pid)
        return self

    @property
    def pid(self):
        return self.own_pid

    def running(self):
        return vm.start_ticks(self.own_pid) == self.ticks

    def stop(self):
        if not hasattr(self, "own_pid"):
            return super().stop()
        if self.running():
            self.qmp("quit", timeout_s=5)
        return 0


class NumaVm(vm.Vm):
    """Two nodes with a memory file each, and room for a module that is added later."""

    def __init__(self, *arguments, **more):
        # The nodes bring their memory; what QEMU would take for the machine is not asked for.
        super().__init__(*arguments, ram="anonymous", **more)
        half = f"{self.memory_mib // 2}M"
        for node, cpus in enumerate((",cpus=0", "")):
            self.extra += ["-object", f"memory-backend-memfd,id=ram{node},size={half},share=on",
                           "-numa", f"node,nodeid={node},memdev=ram{node}{cpus}"]

    def command(self):
        line = super().command()
        line[line.index("-machine") + 1] = "q35,usb=off"
        line[line.index("-m") + 1] = f"{self.memory_mib}M,slots=2,maxmem=1G"
        return line

    def add_memory(self, mib):
        self.qmp("object-add", **{"qom-type": "memory-backend-memfd", "id": "more", "share": True,
                                  "size": mib << 20})
        self.qmp("device_add", driver="pc-dimm", id="dimm", memdev="more", node=0)


def ram_path(pid):
    for fd in os.listdir(f"/proc/{pid}/fd"):
        path = f"/proc/{pid}/fd/{fd}"
        if os.readlink(path).startswith("/memfd:memory-backend-memfd"):
            return path
    raise vm.VmError("no RAM file")


def folds(rig, guest):
    view = rig.wait_folded(guest.name, FOLDED_PAGES_MIN)
    print(f"{guest.name}: {view['saved']['folded_pages']} pages folded in {len(view['blocks'])} "
          f"blocks, group {view['group']}; {guest.check()}", flush=True)
    return view


def locked(rig, guest):
    view = rig.wait_reason(guest.name, "locked_memory")
    reason = next(one for one in view["reasons"] if one["code"] == "locked_memory")
    print(f"{guest.name}: {reason['text']}; {reason['remedy']}", flush=True)
    if view["saved"]["folded_pages"] or view["state"] != "observe-only" or not reason["remedy"]:
        raise vm.VmError(f"locked memory was folded: {view['saved']}")


def grown(rig, guest):
    """RAM that comes later is not ours: it works, and what was ours stays folded."""
    total = "sed -n 's/^MemTotal: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo"
    before_kib = int(guest.sh(total))
    guest.add_memory(ADDED_MIB)
    guest.sh("for i in $(seq 100); do for m in /sys/devices/system/memory/memory*/state; do "
             "[ $(cat $m) = online ] || echo online >$m; done; "
             f"[ $({total}) -gt {before_kib + (ADDED_MIB // 2 << 10)} ] && exit 0; "
             "sleep 0.1; done; exit 1")
    guest.sh(f"mkdir -p /fill && mount -t tmpfs -o size=100% tmpfs /fill && head -c "
             f"{ADDED_MIB * 3 // 4 << 20} /dev/zero | tr '\\0' x >/fill/x && "
             "[ $(tr -d x </fill/x | wc -c) = 0 ] && umount /fill", 120)
    view = folds(rig, guest)
    if len(view["blocks"]) != 2 or view["pages"]["total"] != MEMORY_MIB * 256:
        raise vm.VmError(f"RAM that came later was taken: {view['blocks']}")


def mapped_by_stranger(rig, guest):
    """Maps RAM, keeps its hands off until everything is back, then sees what the guest has."""
    with open(ram_path(guest.pid), "r+b") as file:
        foreign = mmap.mmap(file.fileno(), MEMORY_MIB << 20)
        try:
            rig.wait_reason(guest.name, "other_mapper", UNFOLD_S_MAX)
            rig.wait("everything is back", lambda: not rig.vm(guest.name)["saved"]["folded_pages"],
                     UNFOLD_S_MAX)
            view = rig.vm(guest.name)
            print(f"{guest.name}: {[one['text'] for one in view['reasons']]}", flush=True)
            if b"GUEST-READY" not in foreign[:]:  # part of a script in the guest's memory
                raise vm.VmError("the other process does not see the guest's memory")
        finally:
            foreign.close()
    print(f"{guest.name}: {guest.check()}", flush=True)
    time.sleep(7)  # longer than between two looks at other processes
    view = rig.vm(guest.name)
    if view["saved"]["folded_pages"] or not view["reasons"]:
        raise vm.VmError(f"{guest.name} is folded again: {view}")


def test(run_dir, options):
    kind = vm.guest("mini")
    agents = {"agent_group": grp.getgrgid(vm_tests.NOBODY).gr_name}
    with rig_of(options, run_dir, agents) as rig:
        common = {"memory_mib": MEMORY_MIB, "env": rig.qemu_env}
        own, home, wrapper, env = vm_tests.for_nobody(kind, rig, run_dir)
        with DaemonizedVm(kind, "dae", run_dir, **common) as dae, \
                vm.Vm(own, "box", home, memory_mib=MEMORY_MIB, env=env, wrapper=wrapper,
                      extra=SANDBOX) as box, \
                NumaVm(kind, "numa", run_dir, **common) as numa, \
                vm.Vm(kind, "lock", run_dir, **common,
                      extra=["-overcommit", "mem-lock=on"]) as lock:
            for one in (dae, box, numa, lock):
                one.wait_ready(180)
            folds(rig, dae)
            if folds(rig, box)["group"] == rig.vm("dae")["group"]:
                raise vm.VmError("VMs of two users are in one group")
            if len(folds(rig, numa)["blocks"]) != 2:
                raise vm.VmError("two RAM blocks are not seen as two")
            locked(rig, lock)
            grown(rig, numa)
            mapped_by_stranger(rig, dae)
            rig.kill_daemon()
            rig.start_daemon()
            for one in (dae, box, numa, lock):
                print(f"{one.name}: {one.check()}", flush=True)
            rig.off()
            for one in (box, numa):
                print(f"{one.name}: {one.check()}", flush=True)


vm_tests.run(test, vm_tests.rig_parser(__doc__).parse_args())
