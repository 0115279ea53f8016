#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A Linux guest gives memory back through virtio-mem and gets it again: what it gave up reads as
zeros, whatever state it was in, with a daemon and without.

The module comes from the package of the guest's kernel; exits 77 where that cannot be had."""
import dataclasses
import glob
import os
import pathlib
import subprocess
import time

import vm_tests
from vm_tests import rig_of, vm
from patience import deadline

MEMORY_MIB = 192
PLUGGED_MIB = 128
FILLED_MIB = 160  # more than it has free without
FOLDED_PAGES_MIN = 35_000  # so that most of what is given up is folded
DEVICE = "/machine/peripheral/vm0"


def module_of(kernel):
    """virtio_mem.ko of just this kernel, kept beside the images."""
    # Documentation/arch/x86/boot.rst: where the text lies that begins with the version.
    image = pathlib.Path(kernel).read_bytes()
    text = int.from_bytes(image[0x20e:0x210], "little") + 0x200
    name = image[text:text + 128].split()[0].decode()
    kept = pathlib.Path(kernel).parent.parent.parent / "modules" / name / "virtio_mem.ko"
    if kept.exists():
        return kept
    kept.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["apt-get", "-q", "download", f"linux-image-{name}"], cwd=kept.parent,
                   check=False)
    packages = glob.glob(f"{kept.parent}/*.deb")
    if not packages:
        vm.skip(f"apt has no package of the guest's kernel {name}: build the image anew")
    member = f"./lib/modules/{name}/kernel/drivers/virtio/virtio_mem.ko"
    files = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", packages[0]], stdout=subprocess.PIPE)
    part = kept.with_suffix(".part")
    with open(part, "wb") as out:
        subprocess.run(["tar", "-xO", member], stdin=files.stdout, stdout=out, check=True)
    files.wait()
    os.unlink(packages[0])
    part.rename(kept)
    return kept


def with_module(guest, module, run_dir):
    """The guest with another archive before its initramfs: the kernel unpacks both."""
    initrd = run_dir / "initrd"
    archive = subprocess.run(["cpio", "--quiet", "-o", "-H", "newc", "-R", "0:0"],
                             input=f"{module.name}\n".encode(), cwd=module.parent,
                             stdout=subprocess.PIPE, check=True).stdout
    initrd.write_bytes(archive + pathlib.Path(guest.initrd).read_bytes())
    # Else the guest itself clears what it is about to give up.
    return dataclasses.replace(guest, initrd=str(initrd),
                               append=f"{guest.append} init_on_alloc=0")


class Plugged:
    """The device's memory, as QEMU and the host see it."""

    def __init__(self, guest, run_dir):
        self.guest = guest
        self.bytes = run_dir / "plugged"
        found = guest.qmp("query-memory-devices")
        self.address = next(d["data"]["memaddr"] for d in found if d["type"] == "virtio-mem")

    def size_mib(self):
        return self.guest.qmp("qom-get", path=DEVICE, property="size") >> 20

    def request(self, mib):
        self.guest.qmp("qom-set", path=DEVICE, property="requested-size", value=mib << 20)

    def wait(self, mib, timeout_s=90):
        end = deadline(timeout_s)
        while self.size_mib() != mib:
            if time.monotonic() > end:
                raise vm.VmError(f"{self.size_mib()} MiB are plugged, not {mib}")
            time.sleep(0.1)

    def must_be_zero(self, when):
        """All that QEMU reads there. Reading makes holes resident, which is what is asked."""
        self.bytes.unlink(missing_ok=True)
        self.guest.qmp("pmemsave", val=self.address, size=PLUGGED_MIB << 20,
                       filename=str(self.bytes))
        if self.bytes.read_bytes().count(0) != PLUGGED_MIB << 20:
            raise vm.VmError(f"{when}: memory that was given up is not zero")
        print(f"{when}: {PLUGGED_MIB} MiB that were given up are zero", flush=True)


def fill(guest):
    """Files that hold what nothing else does, in all memory there is; their checksum."""
    guest.sh(f"mkdir -p /fill && mount -t tmpfs -o size={FILLED_MIB}m tmpfs /fill && "
             f"for i in $(seq {FILLED_MIB - 8}); do "
             "{ echo $i; head -c 1048000 /bin/busybox; } >/fill/$i || exit 1; done", 120)
    return sum_of(guest)


def sum_of(guest):
    return guest.sh("cat /fill/* | md5sum", 240)


def test(run_dir, options):
    base = vm.guest("mini")
    guest_ = with_module(base, module_of(base.kernel), run_dir)
    extra = ["-m", f"{MEMORY_MIB}M,maxmem=1G", "-object",
             "memory-backend-memfd,id=vmem,size=256M,share=on", "-device",
             "virtio-mem-pci,id=vm0,memdev=vmem,requested-size=0"]
    with rig_of(options, run_dir) as rig, \
            vm.Vm(guest_, "m1", run_dir, memory_mib=MEMORY_MIB, env=rig.qemu_env, balloon=None,
                  extra=extra) as guest:
        guest.wait_ready(120)
        guest.sh("echo online_movable >/sys/devices/system/memory/auto_online_blocks && "
                 "insmod /virtio_mem.ko")
        plugged = Plugged(guest, run_dir)
        for daemon in (True, False):
            when = "with a daemon" if daemon else "without a daemon"
            plugged.request(PLUGGED_MIB)
            plugged.wait(PLUGGED_MIB)
            before = fill(guest)
            view = rig.wait_folded(guest.name, FOLDED_PAGES_MIN)
            print(f"{PLUGGED_MIB} MiB plugged, all memory filled: {view['saved']['folded_pages']} "
                  f"pages folded, {len(view['blocks'])} RAM blocks", flush=True)
            if len(view["blocks"]) != 2:
                raise vm.VmError(f"not both RAM blocks are attached: {view['blocks']}")
            if sum_of(guest) != before:
                raise vm.VmError("the files have changed")
            guest.sh("umount /fill")
            rig.wait_folded(guest.name, FOLDED_PAGES_MIN)
            if not daemon:
                rig.kill_daemon()
            plugged.request(0)
            if not daemon:
                time.sleep(2)  # what the guest touches on its way waits for the next daemon
                rig.start_daemon()
            plugged.wait(0)
            plugged.must_be_zero(when)
            print(f"{when}: {guest.check()}", flush=True)
        rig.off()
        plugged.must_be_zero("off")
        print(guest.check(), flush=True)


vm_tests.run(test, vm_tests.rig_parser(__doc__).parse_args())
