#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""`ramfold estimate` of a running QEMU with anonymous RAM and no agent: its figures are right, and
it changes nothing.

estimate_live.py anonymous: it sees what a dump of the stopped guest holds, changes nothing of what
the host has of its RAM, and says what to change; a terminal gets a progress bar.
estimate_live.py devices: RAM of memory devices counts, what other devices map does not; the VM is
named help.
estimate_live.py swapped: RAM that the host has paged out stays so. Exits 77 where there is no zram.
"""
import json
import os
import pathlib
import pty
import subprocess
import sys
import time

import vm_tests
from vm_tests import vm

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "kernel" / "storm"))
from zram import Zram, page_out  # noqa: E402

MEMORY_MIB = 256
# On the command line: what the machine has, and what its devices bring.
BOOT_MIB, DIMM_MIB, VIRTIO_MIB, SHARED_MIB = 64, 128, 256, 512
# A dump has the firmware's memory too.
DUMP_HAS_MORE_BYTES = 2 << 20


class Ram:
    """The guest's RAM as the kernel accounts for it: the one mapping of its size."""

    def __init__(self, machine):
        self.smaps = pathlib.Path(f"/proc/{machine.pid}/smaps")
        self.begin = next(begin for begin, _ in self._mappings())

    def _mappings(self):
        fields, begin = {}, 0
        for line in self.smaps.read_text().splitlines() + ["0-0 end"]:
            key, *values = line.split()
            if not key.endswith(":"):
                if fields.get("Size") == MEMORY_MIB << 10:
                    yield begin, fields
                begin, fields = int(key.split("-")[0], 16), {}
            elif values and values[0].isdigit():
                fields[key[:-1]] = int(values[0])

    def kib(self):
        """(in memory, in swap)"""
        fields = next(fields for begin, fields in self._mappings() if begin == self.begin)
        return fields["Rss"], fields["Swap"]


def estimate(build, *arguments, stderr=subprocess.PIPE):
    done = subprocess.run([build / "src/cli/ramfold", "estimate", "--all", "--json", *arguments],
                          stdout=subprocess.PIPE, stderr=stderr, text=True, check=False)
    if done.returncode:
        raise vm.VmError(f"estimate ended with {done.returncode}: {done.stderr}")
    return json.loads(done.stdout)["estimate"]["vms"][0]


def require(holds, what):
    if not holds:
        raise vm.VmError(what)


def saved(found, mechanism):
    return found["alone"][mechanism]["saved_bytes"]


def agrees_with_dump(build, machine, found, run_dir):
    """A dump holds all of the RAM, so it has more zeros; everything else is the same.

    With paging the guest's page tables choose what is written, and name the same pages many times.
    """
    for paging in (False, True):
        dump = run_dir / "guest.dump"
        machine.qmp("dump-guest-memory", paging=paging, protocol=f"file:{dump}", timeout_s=120)
        other = estimate(build, dump)
        dump.unlink()
        nonzero = [one["touched_bytes"] - saved(one, "zero") for one in (found, other)]
        print(f"not zero: live {nonzero[0] / 2**20:.1f} MiB, dump {nonzero[1] / 2**20:.1f} MiB")
        more = nonzero[1] - nonzero[0]
        least = -DUMP_HAS_MORE_BYTES if paging else 0
        require(least <= more <= DUMP_HAS_MORE_BYTES, "the dump holds something else")
        for mechanism in ("sharing", "lz4", "zstd", "similar"):
            apart = abs(saved(other, mechanism) - saved(found, mechanism))
            require(apart <= DUMP_HAS_MORE_BYTES, f"{mechanism}: {apart} bytes apart from the dump")


def shows_progress(build, machine):
    leader, follower = pty.openpty()
    try:
        estimate(build, str(machine.pid), stderr=follower)
        shown = os.read(leader, 65536).decode()
        require("[" in shown and "%" in shown, f"no progress bar: {shown!r}")
        require(shown.endswith("\x1b[K"), "the bar stays")
    finally:
        os.close(leader)
        os.close(follower)


def anonymous(build, machine, ram, run_dir):
    before = ram.kib()
    found = estimate(build, str(machine.pid))
    require(ram.kib() == before, f"RAM was {before} KiB, is {ram.kib()}")
    touched = found["touched_bytes"] >> 10
    print(f"touched {touched} KiB, in memory {before[0]} KiB; "
          f"best {saved(found, 'best') / 2**20:.1f} MiB")
    require(found["moved_bytes"] == 0, "something moved in a guest that stands still")
    # Pages of zeros that are the kernel's own count as mapped, and take no memory: a tenth or so.
    require(0.8 * before[0] <= touched <= before[0], "this is not what the host has")
    require(saved(found, "best") > found["touched_bytes"] // 2, "hardly anything would be saved")
    remedies = " ".join(change["remedy"] for change in found["changes"])
    for what in ("memory-backend-memfd", "ramfold exec"):
        require(what in remedies, f"{what} is not named: {remedies}")
    agrees_with_dump(build, machine, found, run_dir)
    shows_progress(build, machine)
    require(ram.kib() == before, f"RAM was {before} KiB, is {ram.kib()}")


def swapped(build, machine, ram, _):
    pidfd = os.pidfd_open(machine.pid)
    page_out(pidfd, ram.begin, MEMORY_MIB << 19)  # half of it
    os.close(pidfd)
    before = ram.kib()
    require(before[1] > 4096, f"hardly anything went to swap: {before}")
    found = estimate(build, str(machine.pid))
    print(f"(in memory, in swap): {before} KiB, after {ram.kib()} KiB")
    require(ram.kib() == before, "the look has moved pages")
    require(found["swapped_bytes"] == before[1] << 10,
            f"{found['swapped_bytes']} bytes are told as swapped")


def devices(run_dir, options):
    build = pathlib.Path(options.build)
    shared = run_dir / "ivshmem"
    extra = ["-S", "-m", f"{BOOT_MIB}M,slots=4,maxmem=2G",
             "-object", f"memory-backend-ram,id=m1,size={DIMM_MIB}M",
             "-device", "pc-dimm,memdev=m1",
             "-object", f"memory-backend-memfd,id=m2,size={VIRTIO_MIB}M",
             "-device", "virtio-mem-pci,memdev=m2",
             "-object", f"memory-backend-file,id=m3,size={SHARED_MIB}M,share=on,mem-path={shared}",
             "-device", "ivshmem-plain,memdev=m3"]
    with vm.Vm(vm.guest("mini"), "help", run_dir, memory_mib=BOOT_MIB, ram="anonymous",
               balloon=None, extra=extra) as machine:
        while machine.running() and not machine.qmp_path.exists():
            time.sleep(0.1)
        machine.qmp("query-status", timeout_s=120)  # it has begun
        found = estimate(build, str(machine.pid))
        mib = found["size_bytes"] >> 20
        print(f"{found['name']}: {mib} MiB")
        require(found["name"] == f"help (pid {machine.pid})", "it has another name")
        require(mib == BOOT_MIB + DIMM_MIB + VIRTIO_MIB, f"{mib} MiB are taken for its RAM")
        texts = " ".join(change["text"] for change in found["changes"])
        require("RAM 'm1' is a memory-backend-ram" in texts, f"m1 is not judged: {texts}")
        require("m2" not in texts and "m3" not in texts, f"too much is judged: {texts}")


def test(run_dir, options):
    build = pathlib.Path(options.build)
    with vm.Vm(vm.guest("mini"), "anon", run_dir, memory_mib=MEMORY_MIB, ram="anonymous",
               balloon=None) as machine:
        machine.wait_ready(180)
        machine.check()
        machine.qmp("stop")
        look = {"anonymous": anonymous, "swapped": swapped}[options.what]
        look(build, machine, Ram(machine), run_dir)
        machine.qmp("cont")
        machine.check()


def main():
    parser = vm_tests.rig_parser(__doc__)
    parser.add_argument("what", choices=["anonymous", "devices", "swapped"])
    options = parser.parse_args()
    if options.what != "swapped":
        vm_tests.run({"anonymous": test, "devices": devices}[options.what], options)
        return
    zram = Zram()
    try:
        vm_tests.run(test, options)
    finally:
        zram.close()


main()
