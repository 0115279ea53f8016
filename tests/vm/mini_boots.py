#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A small Linux guest boots, its balloon takes and gives back RAM, its working set stays intact."""
import vm_tests
from vm_tests import vm

MEMORY_MIB = 256


def free_mib(guest):
    return int(guest.sh("sed -n 's/^MemFree: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo")) >> 10


def test(run_dir, options):
    with vm.Vm(vm.guest("mini"), "mini", run_dir, memory_mib=MEMORY_MIB,
               **vm_tests.vm_options(options)) as mini:
        mini.wait_ready(90)
        print(f"ready after {mini.ready_s:.1f} s")
        print(mini.check())
        before = free_mib(mini)
        mini.set_balloon(MEMORY_MIB - 96)
        inside = free_mib(mini)
        if inside > before - 80:
            raise vm.VmError(f"{inside} MiB free with the balloon inflated, {before} before")
        print(mini.check())
        mini.set_balloon(MEMORY_MIB)
        # Memory that comes back has to be good for something.
        mini.sh("mkdir -p /fill && mount -t tmpfs tmpfs /fill && cp /bin/ramcheck /fill/a && "
                "i=0 && while [ $i -lt 90 ]; do cp /fill/a /fill/a$i || exit 1; i=$((i + 1)); "
                "done && for f in /fill/a*; do cmp $f /bin/ramcheck || exit 1; done; umount /fill")
        print(mini.check())


vm_tests.run(test, vm_tests.parser(__doc__).parse_args())
