#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The flat guest runs under KVM and finds its pages right for several rounds."""
import vm_tests
from vm_tests import vm

ROUNDS = 5


def test(run_dir, options):
    guest = vm.flat_guest(options.elf, mib=options.mib)
    with vm.Vm(guest, "flat", run_dir, memory_mib=options.mib + 64, accel=options.accel,
               **vm_tests.vm_options(options)) as flat:
        flat.wait_ready(60)
        flat.wait_serial(r"ROUND \d+ ok", 90, count=ROUNDS)
        if "BAD" in flat.serial():
            raise vm.VmError(flat.serial())


parser = vm_tests.parser(__doc__)
parser.add_argument("elf")
parser.add_argument("--mib", type=int, default=16)
parser.add_argument("--accel", default="kvm")
wanted = parser.parse_args()
if wanted.accel == "kvm" and vm.kvm_unusable():
    vm.skip(vm.kvm_unusable())
vm_tests.run(test, wanted)
