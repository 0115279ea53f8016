#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The daemon's unit under a real systemd: killed or told to end, the daemon is started again and
its guests go on, also while a hostile VM keeps the old one from ending.

daemon_systemd.py SOURCE_ROOT RAMFOLDD KEEPER CLI AGENT STORM_GUEST HOSTILE_AGENT; exits 77 where
systemd, FUSE or userfaultfd are not to be had."""
import os
import queue
import re
import subprocess
import sys
import threading
import time

sys.dont_write_bytecode = True  # nothing appears in the source tree
sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
from box import BIN, Box, Failed, ok, run, wait  # noqa: E402
from patience import deadline  # noqa: E402

FOLDED_MIN = 300
FOR_BPF = {'cap_perfmon': 38, 'cap_bpf': 39}  # the bits of include/uapi/linux/capability.h


class Talker:
    """A program in the box that answers in lines."""

    def __init__(self, box, *words):
        self.process = subprocess.Popen(box.command(*words), stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True)
        self.lines = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.process.stdout:
            self.lines.put(line.strip())
        self.lines.put('ended')

    def until(self, word, seconds=60):
        end = deadline(seconds)
        while True:
            try:
                line = self.lines.get(timeout=max(0.1, end - time.monotonic()))
            except queue.Empty:
                raise Failed(f'no `{word}` within {seconds} s') from None
            if line.startswith(word):
                return
            if line == 'ended' or line.startswith(('BAD', 'cannot')):
                raise Failed(f'{line} instead of `{word}`')

    def check(self):
        self.process.stdin.write('check\n')
        self.process.stdin.flush()
        self.until('checked')


def folds(box):
    return max(box.folded().values(), default=0) > FOLDED_MIN


def held_attacker(box):
    """A VM that holds a thread of the daemon by the lock of its RAM file."""
    attacker = Talker(box, 'env', 'TMPDIR=/tmp', f'{BIN}/hostile_agent',
                      '/run/ramfold/agent.sock', 'file-attached')
    attacker.until('attached')
    attacker.until('done')
    daemon = box.daemon()
    wait('a thread that is held', lambda: any(
        state == 'D' and name.endswith('-fold') for name, state in box.threads(daemon)))
    return attacker


def let_go(box, attacker):
    """What serves its file system ends, and with that what waits for it."""
    for pid in box.run('pgrep', '-x', 'hostile_agent').split():
        if box.run('pgrep', '-P', pid, check=False) == '':  # the child that serves
            box.run('kill', '-KILL', pid)
    attacker.until('the RAM file is free again')
    attacker.until('every byte is right')
    attacker.process.kill()
    box.run('pkill', '-KILL', '-x', 'hostile_agent', check=False)


def tells_the_way(box):
    """`stop` and `restart` are refused, and what `systemctl status` shows says what to do."""
    for unit, way in (('ramfold', 'systemctl reload ramfold; end: ramfold off first'),
                      ('ramfold-keeper', 'systemctl reload ramfold-keeper; end: ramfold off')):
        for verb in ('stop', 'restart'):
            refused = subprocess.run(box.command('systemctl', verb, unit), stderr=subprocess.PIPE)
            if refused.returncode == 0:
                raise Failed(f'systemctl {verb} {unit} is not refused')
        wait(f'the status of {unit}', lambda: way in box.property('StatusText', unit))
        if 'man:ramfoldd(8)' not in box.property('Documentation', unit):
            raise Failed(f'{unit} names no man page')
    ok('stop and restart are refused, and the status tells the way')


def upgrade(box):
    """Puts another file in the place of the daemon's program, as a package does."""
    box.run('cp', '-p', f'{BIN}/ramfoldd', f'{BIN}/ramfoldd.new')
    box.run('mv', f'{BIN}/ramfoldd.new', f'{BIN}/ramfoldd')


def reads_as_a_journal(box, program, info):
    """Lines have priorities. Neither these, nor a second timestamp, nor the program's name are in
    their texts. `info` is part of a line that is no warning."""
    def lines(*words):
        text = box.run('journalctl', '--no-pager', '-o', 'cat', f'_COMM={program}', *words)
        return text.splitlines()

    wait(f'the journal of {program}', lambda: any(info in line for line in lines()))
    odd = [line for line in lines()
           if line[:1] in '<0123456789' or ' info ' in line or line.startswith(f'{program}: ')]
    if odd:
        raise Failed(f'{program}: lines with a priority, a time or its name in their text: '
                     f'{odd[:3]}')
    if any(info in line for line in lines('-p', 'notice')):
        raise Failed(f'{program}: "{info}" has the priority of a warning')
    ok(f'the journal gets priorities from {program}, and no second timestamp')


def has_no_capability_for_bpf(box, when):
    """The unit grants what loading a BPF program takes; no thread of the daemon has it any more."""
    granted = box.property('CapabilityBoundingSet').lower().split()
    if not FOR_BPF.keys() <= set(granted):
        raise Failed(f'the unit does not grant {list(FOR_BPF)}: this proves nothing: {granted}')
    threads = box.run('sh', '-c', f'cat /proc/{box.daemon()}/task/*/status', check=False)
    sets = re.findall(r'^(CapPrm|CapEff):\s*([0-9a-f]+)$', threads, re.M)
    if len(sets) < 4 or not any(int(bits, 16) for _, bits in sets):
        raise Failed(f'the capabilities of several threads are not to be read: {sets}')
    for name, bits in sets:
        kept = [one for one, bit in FOR_BPF.items() if int(bits, 16) >> bit & 1]
        if kept:
            raise Failed(f'{when}: a thread of the daemon still has {kept} in {name}')
    ok(f'{when}: none of {len(sets) // 2} threads has a capability for BPF')


def body(box):
    box.run('systemctl', 'start', 'ramfold.service')
    guest = Talker(box, 'env', f'LD_PRELOAD={BIN}/libramfold-agent.so', 'RAMFOLD_SETTLE_MS=20',
                   f'{BIN}/storm_guest', '--guest', '0', '--seed', '7', '--pages', '1024',
                   '--threads', '2')
    wait('folding', lambda: folds(box), 10)
    ok('a guest is folded by the hardened unit')

    favoured = [value for name, value in box.nice(box.daemon()) if name.endswith('-fault')]
    if not favoured or set(favoured) != {-10}:
        raise Failed(f'fault threads are not preferred: nice {favoured}')
    ok('the unit lets fault threads be preferred')
    has_no_capability_for_bpf(box, 'folding')
    tells_the_way(box)
    reads_as_a_journal(box, 'ramfoldd', 'is ready')

    old = box.daemon()
    box.run('systemctl', 'reload', 'ramfold')
    wait('the news of a reload', lambda: 'the configuration was read anew' in box.run(
        'journalctl', '--no-pager', '-o', 'cat', '_COMM=ramfoldd'))
    if box.daemon() != old:
        raise Failed('a reload without another program started the daemon anew')
    guest.check()
    ok('systemctl reload ramfold reads the configuration anew, in the same process')

    for unit in ('ramfold', 'ramfold-keeper'):
        others = {u: box.property('MainPID', u) for u in ('ramfold', 'ramfold-keeper') if u != unit}
        old = box.property('MainPID', unit)
        if unit == 'ramfold':  # the keeper starts anew at every reload
            upgrade(box)
        box.run('systemctl', 'reload', unit)
        took = wait(f'{unit} after a reload', lambda: box.is_back(old, unit))
        guest.check()
        if any(box.property('MainPID', u) != pid for u, pid in others.items()):
            raise Failed(f'a reload of {unit} restarted the other')
        if box.run(f'{BIN}/ramfold', 'status', '--json', check=False) == '':
            raise Failed('the daemon does not answer')
        wait('folding', lambda: folds(box), 60)
        ok(f'systemctl reload {unit}: another one, back after {took:.1f} s; nothing is lost')
    reads_as_a_journal(box, 'ramfold-keeper', 'took back')

    old = box.daemon()
    box.run('kill', '-KILL', old)
    took = wait('the daemon after SIGKILL', lambda: box.is_back(old))
    guest.check()
    ok(f'killed: back after {took:.1f} s')
    wait('folding', lambda: folds(box), 60)
    has_no_capability_for_bpf(box, 'after a restart')

    for how, words in (('SIGKILL', ('kill', '-KILL')), ('SIGTERM', ('kill', '-TERM'))):
        wait('folding', lambda: folds(box), 60)
        attacker = held_attacker(box)
        old = box.daemon()
        box.run(*words, old)
        took = wait(f'the daemon after {how}, held', lambda: box.is_back(old))
        if not any(state == 'D' for _, state in box.threads(old)):
            raise Failed(f'{how}: the old daemon has ended: this proves nothing')
        guest.check()
        ok(f'{how} while a VM keeps the daemon from ending: back after {took:.1f} s')
        let_go(box, attacker)
        wait('the end of the old daemon', lambda: box.threads(old) == [])
        guest.check()
    wait('folding', lambda: folds(box), 60)
    ok('once it lets go, the old daemon ends and everything is folded again')

    box.run(f'{BIN}/ramfold', 'off')
    old = box.daemon()
    upgrade(box)
    box.run('systemctl', 'reload', 'ramfold')
    wait('the daemon after a reload while off', lambda: box.is_back(old))
    if '"state":"off"' not in box.run(f'{BIN}/ramfold', 'status', '--json').replace(' ', ''):
        raise Failed('it is off no more')
    box.run('systemctl', 'kill', 'ramfold')
    wait('the end', lambda: box.property('ActiveState', 'ramfold') == 'inactive')
    guest.check()
    ok('off: a reload is an upgrade, `systemctl kill` ends it for good')


def main():
    source, *programs = sys.argv[1:]
    for device in ('/dev/fuse', '/dev/userfaultfd'):
        if not os.path.exists(device):
            print(f'skipped: needs {device}')
            sys.exit(77)
    # Hostile agents have another user and root's group.
    run(Box(source, programs, settings='agent_group = "root"\n'), body)


if __name__ == '__main__':
    main()
