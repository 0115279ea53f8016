#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A domain of stock libvirt, in its sandbox and under its account, folded by the units under a
real systemd; the daemon is killed on the way.

libvirt.py SOURCE_ROOT RAMFOLDD KEEPER CLI AGENT; exits 77 where systemd, libvirt or userfaultfd
are not to be had."""
import os
import pathlib
import shutil
import subprocess
import sys

sys.dont_write_bytecode = True  # nothing appears in the source tree
sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[3] / 'scripts'))
import vm  # noqa: E402
from box import BIN, Box, Failed, ok, run, wait  # noqa: E402

NAME = 'lv1'
IMAGE = '/var/lib/ramfold-box'
LIBVIRT = '/var/lib/libvirt/qemu'
FOLDED_MIN = 8000
DOMAIN = f"""
<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>{NAME}</name>
  <memory unit='MiB'>256</memory>
  <memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>
  <vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    <kernel>{IMAGE}/vmlinuz</kernel>
    <initrd>{IMAGE}/initrd.gz</initrd>
    <cmdline>{{append}}</cmdline>
  </os>
  <features><acpi/><tcg><tb-cache unit='MiB'>64</tb-cache></tcg></features>
  <cpu mode='custom' match='exact'>
    <model>qemu64</model><feature policy='disable' name='cx16'/>
  </cpu>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <controller type='usb' model='none'/>
    <serial type='file'><source path='{LIBVIRT}/{NAME}.serial'/><target port='0'/></serial>
    <serial type='unix'>
      <source mode='bind' path='{LIBVIRT}/{NAME}.sh'/><target port='1'/>
    </serial>
    <memballoon model='none'/>
  </devices>
  <qemu:commandline>
    <qemu:env name='LD_PRELOAD' value='{BIN}/libramfold-agent.so'/>
  </qemu:commandline>
</domain>
"""


def in_guest(box, command):
    """In the guest's shell, by its serial port's socket inside the box."""
    init = pathlib.Path(box.dir, 'init.pid').read_text().strip()
    status, output = vm.run_in_guest(f'/proc/{init}/root{LIBVIRT}/{NAME}.sh', command, 300)
    if status:
        raise Failed(f'{command}: {status}: {output}')
    return output.strip()


def body(box):
    box.run('systemctl', 'start', 'ramfold.service', 'virtlogd.service', 'libvirtd.service')
    box.run('virsh', 'define', f'{IMAGE}/{NAME}.xml')
    box.run('virsh', 'start', NAME)
    pid = box.run('cat', f'/run/libvirt/qemu/{NAME}.pid')
    status = dict(line.split(':', 1) for line in
                  box.run('cat', f'/proc/{pid}/status').splitlines())
    uid, seccomp = status['Uid'].split()[0], status['Seccomp'].strip()
    if uid == '0' or seccomp != '2':
        raise Failed(f'it runs as uid {uid}, seccomp {seccomp}: that is not the sandbox')
    if 'spawn=deny' not in box.run('cat', f'/proc/{pid}/cmdline'):
        raise Failed('libvirt did not forbid it to fork')
    wait('the guest', lambda: 'GUEST-READY' in box.run('cat', f'{LIBVIRT}/{NAME}.serial',
                                                       check=False), 180)
    wait('folding', lambda: box.folded().get(NAME, 0) > FOLDED_MIN, 120)
    ok(f'{box.folded()[NAME]} pages of a domain of uid {uid} are folded, in its sandbox')
    print(in_guest(box, 'ramcheck ask check'))

    old = box.daemon()
    box.run('kill', '-KILL', old)
    took = wait('the daemon after SIGKILL', lambda: box.is_back(old))
    print(in_guest(box, 'ramcheck ask check'))
    wait('folding', lambda: box.folded().get(NAME, 0) > FOLDED_MIN, 120)
    ok(f'killed: back after {took:.1f} s, and it is folded again')

    box.run('virsh', 'suspend', NAME)
    box.run('virsh', 'resume', NAME)
    print(in_guest(box, 'ramcheck ask check'))
    box.run('virsh', 'destroy', NAME)
    wait('the end of the domain', lambda: NAME not in box.folded())
    ok('suspended, resumed and destroyed')


def main():
    source, *programs = sys.argv[1:]
    for program in ('libvirtd', 'virtlogd', 'virsh', vm.QEMU):
        if shutil.which(program) is None:
            vm.skip(f'{program} is not installed (scripts/deps.sh test)')
    if not os.path.exists('/dev/userfaultfd'):
        vm.skip('there is no /dev/userfaultfd')
    guest = vm.guest('mini')
    box = Box(source, programs)
    image = pathlib.Path(box.dir, 'copy', IMAGE.lstrip('/'))
    image.mkdir(parents=True)
    shutil.copy(guest.kernel, image / 'vmlinuz')
    shutil.copy(guest.initrd, image / 'initrd.gz')
    (image / f'{NAME}.xml').write_text(DOMAIN.format(append=guest.append))
    subprocess.run(['chmod', '-R', 'a+rX', pathlib.Path(box.dir, 'copy')], check=True)
    run(box, body)


if __name__ == '__main__':
    main()
