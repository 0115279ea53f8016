#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Lost pages stay lost, are counted and shown, and never read as zeros: through detach and attach,
a restart of the daemon, off and resume.

lost.py detach|decided|restart|old-kernel|off|inconsistent. Exits 77 where a userfaultfd cannot be
driven from outside."""
import os
import re
import subprocess
import sys
import time

from decisions import write_decisions
from off import cli, must_succeed
from rig import Failed, Rig, binary, need_userfaultfd, say, wait

PAGES = 2048
LOST = 20

# RAM whose pages all differ; asked, it says how its pages read. A page that cannot be read is an
# error of the system call that is given it.
GUEST = '''
import fcntl, mmap, os, struct, sys
pages = int(sys.argv[1])
fd = os.memfd_create("memory-backend-memfd", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
os.ftruncate(fd, pages * 4096)
fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL)
ram = mmap.mmap(fd, pages * 4096)
view = memoryview(ram)
want = lambda page: struct.pack("<Q", page + 1) * 512
for page in range(pages):
    view[page * 4096:page * 4096 + 4096] = want(page)
out, into = os.pipe()
print("ready", flush=True)
for line in sys.stdin:
    good = lost = bad = 0
    for page in range(pages):
        try:
            os.write(into, view[page * 4096:page * 4096 + 4096])
        except OSError:
            lost += 1
            continue
        if os.read(out, 4096) == want(page):
            good += 1
        else:
            bad += 1
    print(good, lost, bad, flush=True)
'''


class Lost:
    def __init__(self, *arguments, daemon_preloads=()):
        """arguments: of the guest, as QEMU's."""
        self.rig = Rig(seed=1)
        self.rig.daemon_preloads = [*daemon_preloads]
        self.arguments = arguments
        self.start_guest()
        self.rig.start_daemon()

    def start_guest(self):
        env = dict(os.environ, LD_PRELOAD=binary('RAMFOLD_AGENT'),
                   RAMFOLD_AGENT_SOCKET=f'{self.rig.dir}/agent.sock', RAMFOLD_SETTLE_MS='20')
        self.guest = subprocess.Popen([sys.executable, '-c', GUEST, str(PAGES), *self.arguments],
                                      env=env, text=True, stdin=subprocess.PIPE,
                                      stdout=subprocess.PIPE)
        if self.guest.stdout.readline().strip() != 'ready':
            raise Failed('the guest did not begin')

    def end_guest(self):
        self.guest.kill()
        self.guest.wait()

    def close(self, keep):
        self.end_guest()
        self.rig.close(keep)

    def log(self):
        with open(f'{self.rig.dir}/daemon.log', encoding='utf-8') as log:
            return log.read()

    def vm(self):
        snapshot = self.rig.snapshot()
        vms = snapshot['vms'] if snapshot else []
        return vms[0] if vms else None

    def fold(self):
        wait('most is folded', lambda: (vm := self.vm()) and
             vm['saved'].get('folded_pages', 0) > PAGES * 3 // 4, 60)

    def damage(self, flips=tuple(1 << (20 + n) for n in range(LOST))):
        """The words of some folded pages that lie apart: one of these flips each."""
        folder = f'/proc/{self.rig.daemon.pid}/fd'

        def only_table():
            found = [fd for fd in os.listdir(folder) if os.path.lexists(f'{folder}/{fd}') and
                     'ramfold-page-table' in os.readlink(f'{folder}/{fd}')]
            return found[0] if len(found) == 1 else None
        table = wait('no other VM has a page table', only_table, 20)
        with open(f'{folder}/{table}', 'r+b', buffering=0) as table:
            done = 0
            for page in range(0, PAGES, 3):
                table.seek(page * 8)
                word = int.from_bytes(table.read(8), 'little')
                if word >> 18 & 7 != 3:
                    continue
                table.seek(page * 8)
                table.write((word ^ flips[done]).to_bytes(8, 'little'))
                done += 1
                if done == len(flips):
                    return
        raise Failed(f'only {done} pages were folded')

    def lose(self):
        """Pages are folded, some words are damaged, and the guest has read all: those are lost."""
        self.fold()
        self.damage()
        self.must_read()
        self.must_be_told('failed')

    def must_read(self, lost=LOST):
        """All pages as they were, but for those that are lost."""
        self.guest.stdin.write('\n')
        self.guest.stdin.flush()
        read = self.guest.stdout.readline().split()
        if read != [str(PAGES - lost), str(lost), '0']:
            raise Failed(f'good, lost, wrong: {read}')

    def must_be_told(self, state):
        def told():
            vm = self.vm()
            return (vm and vm['state'] == state and vm['pages']['poisoned'] == LOST and
                    any(r['code'] == 'lost_pages' for r in vm['reasons']))
        try:
            wait('told', told, 20)
        except Failed:
            vm = self.vm()
            raise Failed(f'{state} with {LOST} lost pages is not told: '
                         f'{vm and (vm["state"], vm["pages"], vm["reasons"])}')

    def must_say(self, op, **fields):
        answer = self.rig.request(op, 60, **fields)
        text = answer.get('error', {}).get('text', '') if answer else ''
        if f'but {LOST} pages' not in text:
            raise Failed(f'{op}: {answer}')

    def must_be_off(self):
        """Off holds, and what is lost is told by count and VM."""
        def off():
            host = (self.rig.snapshot() or {'host': {}})['host']
            return host.get('state') == 'off' and host
        host = wait('off', off, 20)
        mine = f'{LOST} of vm {self.vm()["name"]} '
        if not any(r['code'] == 'off' and mine in r['text'] for r in host['reasons']):
            raise Failed(f'off, and {mine!r} is not told: {host["reasons"]}')

        def listed():  # the column has the first reason: the agent may not have come back yet
            shown = cli(self.rig, 'list', '-o', 'PID,STATE,WHY').stdout
            return re.search(rf'\b{LOST} (lost pages|of its pages are lost)', shown)
        try:
            wait('listed', listed, 20)
        except Failed:
            raise Failed(f'not in list: {cli(self.rig, "list", "-o", "PID,STATE,WHY")}') from None
        if f'but {LOST} pages' not in (shown := cli(self.rig, 'status')).stdout:
            raise Failed(f'not in status: {shown}')

    def must_not_fold(self):
        before = self.vm()['saved'].get('folded_pages', 0)
        time.sleep(1)
        after = self.vm()['saved'].get('folded_pages', 0)
        if after > before:
            raise Failed(f'folded on: {before}, then {after}')


def detach():
    lost = Lost()
    failed = True
    try:
        lost.lose()
        pid = lost.guest.pid
        for _ in range(2):
            lost.must_say('detach', vm=str(pid))
            lost.must_be_told('detached')
            lost.must_read()
            answer = lost.rig.request('attach', 30, vm=str(pid))
            if not answer or 'error' in answer:
                raise Failed(f'attach: {answer}')
            lost.must_be_told('failed')
            lost.must_not_fold()
            lost.must_read()
        failed = False
    finally:
        lost.close(failed)


def decided():
    """`detach` of a VM with lost pages holds until `attach`: for the VM that is started anew, and
    when it is the next daemon that completes it."""
    lost = Lost('-name', 'web')
    failed = True
    try:
        lost.lose()
        lost.must_say('detach', vm='web')
        lost.must_be_told('detached')
        lost.end_guest()
        lost.start_guest()
        wait('started anew, and detached', lambda: (vm := lost.vm()) and
             vm['pid'] == lost.guest.pid and vm['state'] == 'detached', 60)
        must_succeed('attach', lost.rig.request('attach', vm='web'))
        lost.fold()

        lost.damage()
        lost.rig.kill_daemon()
        write_decisions(lost.rig, f'vm detached 1764487258 uid={os.getuid()} uuid= name=web')
        lost.rig.start_daemon()
        lost.must_be_told('detached')
        # An attempt before the agent answers may fail. What is lost is no failure.
        wait('it is not tried again', lambda: 'detaching it: done after' in (log := lost.log()) or
             'trying again' not in log, 60)
        lost.must_read()
        # The end of `off` is not that of a detach.
        lost.must_say('off')
        lost.must_be_off()
        must_succeed('resume', lost.rig.request('resume'))
        lost.must_be_told('detached')
        must_succeed('attach', lost.rig.request('attach', vm='web'))
        lost.must_be_told('failed')
        lost.must_read()
        failed = False
    finally:
        lost.close(failed)


def restart():
    lost = Lost()
    failed = True
    try:
        lost.fold()
        lost.damage()
        lost.rig.kill_daemon()  # nobody has looked at them yet
        lost.rig.start_daemon()
        lost.must_be_told('failed')
        lost.must_not_fold()
        lost.must_read()
        for end in (lost.rig.kill_daemon, lost.rig.stop_daemon):
            end()
            lost.rig.start_daemon()
            lost.must_be_told('failed')
            lost.must_not_fold()
            lost.must_read()
        lost.must_say('detach', vm=str(lost.guest.pid))
        lost.rig.kill_daemon()
        lost.rig.start_daemon()
        lost.must_be_told('detached')
        lost.must_read()
        failed = False
    finally:
        lost.close(failed)


def old_kernel():
    """No page maps the pool where the kernel cannot say what an address maps. So after a restart
    damaged words are settled there, too, and the VM can be detached."""
    lost = Lost(daemon_preloads=[binary('RAMFOLD_DENIES_MAPS_QUERY')])
    failed = True
    try:
        lost.fold()
        lost.damage()
        lost.rig.kill_daemon()
        lost.rig.start_daemon()
        lost.must_be_told('failed')
        lost.must_say('detach', vm=str(lost.guest.pid))
        lost.must_be_told('detached')
        lost.must_read()
        failed = False
    finally:
        lost.close(failed)


def off():
    lost = Lost()
    failed = True
    try:
        lost.fold()
        lost.damage()
        lost.must_say('off')  # nobody has touched them before
        lost.must_be_off()
        lost.must_be_told('detached')
        lost.must_read()
        lost.must_say('off')
        # It holds over the end of the daemon, which goes on serving what is lost.
        if (status := lost.rig.stop_daemon()) != 0:
            raise Failed(f'a VM depends on it, and it ended with {status}')
        lost.rig.start_daemon()
        lost.must_be_off()
        lost.must_be_told('detached')
        lost.must_read()
        answer = lost.rig.request('resume', 30)
        if not answer or 'error' in answer:
            raise Failed(f'resume: {answer}')
        lost.must_be_told('failed')
        lost.must_not_fold()
        lost.must_read()
        lost.must_say('off')
        lost.end_guest()
        if 'trying again' in lost.log():
            raise Failed('what is lost does not come back by trying again')
        # What is left to do is done by itself.
        wait('off', lambda: (s := lost.rig.snapshot()) and s['host']['state'] == 'off', 90)
        wait('the keeper holds nothing',
             lambda: lost.rig.snapshot()['host']['keeper']['descriptors'] == 0, 60)
        failed = False
    finally:
        lost.close(failed)


def inconsistent():
    """A VM whose page state does not add up is served, and in `list` with its why; also by the next
    daemon."""
    lost = Lost()
    failed = True

    def must_be_listed(why):
        def listed():
            shown = ' '.join(cli(lost.rig, 'list', '-o', 'PID,STATE,WHY').stdout.split())
            return f'{lost.guest.pid} failed' in shown and why in shown
        try:
            wait('listed', listed, 20)
        except Failed:
            raise Failed(f'{why!r} is not in list: {cli(lost.rig, "list", "-o", "PID,STATE,WHY")}, '
                         f'{lost.vm()["reasons"]}')
        codes = [reason['code'] for reason in lost.vm()['reasons']]
        if lost.vm()['state'] != 'failed' or 'inconsistent' not in codes:
            raise Failed(f'inconsistent is not told: {lost.vm()["state"]}, {codes}')

    try:
        lost.fold()
        # A content that nobody has, in a word whose check fits: a multiple of its polynomial.
        lost.damage([0x6038b << 45])
        lost.must_read(lost=1)
        must_be_listed('names contents that its group does not have')
        lost.must_not_fold()
        lost.rig.kill_daemon()
        lost.rig.start_daemon()
        must_be_listed('found its page state inconsistent')
        lost.must_not_fold()
        lost.must_read(lost=1)
        failed = False
    finally:
        lost.close(failed)


if __name__ == '__main__':
    need_userfaultfd()
    try:
        {'detach': detach, 'decided': decided, 'restart': restart, 'old-kernel': old_kernel,
         'off': off, 'inconsistent': inconsistent}[sys.argv[1]]()
    except Failed as e:
        say(f'FAILED: {e}')
        sys.exit(1)
