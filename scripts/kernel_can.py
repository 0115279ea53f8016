# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether the tests' machine lets a daemon fold: a test skips where it does not, and says why."""

import ctypes
import os

SYS_BPF = 321  # x86-64
BPF_MAP_CREATE = 0
BPF_MAP_TYPE_ARRAY = 2
KERNEL_TYPES = '/sys/kernel/btf/vmlinux'


class _MapCreate(ctypes.Structure):
    """The first fields of union bpf_attr for BPF_MAP_CREATE (bpf(2))."""
    _fields_ = [(name, ctypes.c_uint32)
                for name in ('map_type', 'key_size', 'value_size', 'max_entries')]


def no_bpf():
    """Why the gate cannot ask the kernel here: there is no BPF, or it is not allowed. Empty: it
    can. A program that the kernel refuses for another reason is a failure, not a reason to skip."""
    if not os.path.exists(KERNEL_TYPES):
        return f'there is no {KERNEL_TYPES}'
    libc = ctypes.CDLL(None, use_errno=True)
    wanted = _MapCreate(BPF_MAP_TYPE_ARRAY, 4, 8, 1)
    fd = libc.syscall(SYS_BPF, BPF_MAP_CREATE, ctypes.byref(wanted), ctypes.sizeof(wanted))
    if fd < 0:
        return f'bpf(2): {os.strerror(ctypes.get_errno())}'
    os.close(fd)
    return ''
