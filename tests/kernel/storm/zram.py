# SPDX-License-Identifier: GPL-2.0-or-later
"""A zram device that the host swaps to, for as long as a test needs it."""
import ctypes
import os
import subprocess
import sys

SWAP_MIB = 256
SYS_PROCESS_MADVISE, MADV_PAGEOUT = 440, 21
libc = ctypes.CDLL(None, use_errno=True)


class Iovec(ctypes.Structure):
    _fields_ = [('base', ctypes.c_uint64), ('size', ctypes.c_uint64)]


def page_out(pidfd, address, size):
    """Puts memory of a process to swap; what the kernel cannot move now stays."""
    vector = Iovec(address, size)
    libc.syscall(SYS_PROCESS_MADVISE, pidfd, ctypes.byref(vector), 1, MADV_PAGEOUT, 0)


def skip(why):
    print(why)
    sys.exit(77)


def run_quietly(*command):
    return subprocess.run(command, capture_output=True, text=True, check=False)


class Zram:
    """A zram device to swap to, given back on close."""

    def __init__(self):
        self.number = None
        if not os.path.exists('/sys/class/zram-control'):
            run_quietly('modprobe', 'zram')
        try:
            with open('/sys/class/zram-control/hot_add') as f:
                self.number = int(f.read())
        except OSError as e:
            skip(f'needs zram: {e}')
        self.device = f'/dev/zram{self.number}'
        try:
            with open(f'/sys/block/zram{self.number}/disksize', 'w') as f:
                f.write(f'{SWAP_MIB}M')
        except OSError as e:
            self.close()
            skip(f'needs zram: {e}')
        for command in (['mkswap', self.device], ['swapon', '-p', '32000', self.device]):
            done = run_quietly(*command)
            if done.returncode != 0:
                self.close()
                skip(f'needs swap: {" ".join(command)}: {done.stderr.strip()}')

    def close(self):
        run_quietly('swapoff', self.device)
        try:
            with open(f'/sys/block/zram{self.number}/reset', 'w') as f:
                f.write('1')
            with open('/sys/class/zram-control/hot_remove', 'w') as f:
                f.write(str(self.number))
        except OSError as e:
            print(f'{self.device} stays: {e}')
