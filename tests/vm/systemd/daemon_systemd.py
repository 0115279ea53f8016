#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The daemon's unit under a real systemd: killed or told to end, the daemon is started again and
its guests go on, also while a hostile VM keeps the old one from ending.

daemon_systemd.py SOURCE_ROOT RAMFOLDD KEEPER CLI AGENT STORM_GUEST HOSTILE_AGENT; exits 77 where
systemd, FUSE or userfaultfd are not to be had."""
import json
import os
import pathlib
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
BIN = '/usr/local/lib/ramfold-box'
CONFIG = """
[fold]
when = "eager"
passes = 1
pass_seconds = 0.1
backoff = false
[scan]
cpu = 1.0
[host]
reserve = "1%"
"""
FOLDED_MIN = 300
BACK_S = 20  # of which the old one has three to end by itself


class Failed(Exception):
    pass


def ok(text):
    print(f'ok: {text}', flush=True)


class Box:
    def __init__(self, source, programs):
        self.dir = tempfile.mkdtemp(prefix='ramfold-box-', dir='/var/tmp')
        copy = pathlib.Path(self.dir, 'copy')
        for below in (BIN.lstrip('/'), f'{BIN.lstrip("/")}/libexec/ramfold', 'etc/systemd/system',
                      'etc/ramfold'):
            (copy / below).mkdir(parents=True, exist_ok=True)
        for program in programs:
            name = os.path.basename(program)
            below = 'libexec/ramfold' if name == 'ramfold-keeper' else ''
            shutil.copy(program, copy / BIN.lstrip('/') / below / name)
        for unit in ('ramfold-keeper.service', 'ramfold.service'):
            text = pathlib.Path(source, 'systemd', f'{unit}.in').read_text()
            for what, where in (('bindir', BIN), ('sbindir', BIN),
                                ('libexecdir', f'{BIN}/libexec')):
                text = text.replace(f'@{what}@', where)
            (copy / 'etc/systemd/system' / unit).write_text(text)
        (copy / 'etc/ramfold/ramfold.toml').write_text(CONFIG)
        # The remedy that `list` names where the host has ever made large folios of shared memory.
        drop_in = copy / 'etc/systemd/system/ramfold.service.d'
        drop_in.mkdir()
        (drop_in / 'frames.conf').write_text('[Service]\nCapabilityBoundingSet=CAP_SYS_ADMIN\n')
        os.chmod(copy / 'etc/ramfold', 0o755)

    def start(self):
        started = subprocess.run([HERE / 'box.sh', 'start', self.dir])
        if started.returncode != 0:
            sys.exit(started.returncode)

    def stop(self):
        if os.path.exists(f'{self.dir}/box.pid'):
            subprocess.run([HERE / 'box.sh', 'stop', self.dir], check=False)
        shutil.rmtree(self.dir, ignore_errors=True)

    def command(self, *words):
        return [str(HERE / 'box.sh'), 'run', self.dir, *words]

    def run(self, *words, check=True):
        done = subprocess.run(self.command(*words), stdout=subprocess.PIPE, text=True)
        if check and done.returncode != 0:
            raise Failed(f'{words}: {done.returncode}')
        return done.stdout.strip()

    def property(self, name, unit='ramfold'):
        return self.run('systemctl', 'show', '-P', name, unit)

    def daemon(self):
        return self.property('MainPID')

    def threads(self, pid):
        """Names and states of the threads of a process."""
        found = []
        for stat in self.run('sh', '-c', f'cat /proc/{pid}/task/*/stat', check=False).splitlines():
            name, _, rest = stat.partition('(')[2].rpartition(')')
            found.append((name, rest.split()[0]))
        return found


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
        end = time.monotonic() + seconds
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


def wait(what, condition, seconds=BACK_S):
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > seconds:
            raise Failed(f'{what}: not within {seconds} s')
        time.sleep(0.1)
    return time.monotonic() - began


def folds(box):
    answer = box.run(f'{BIN}/ramfold', 'list', '--json', check=False)
    vms = json.loads(answer)['vms'] if answer else []
    return any(vm['name'].startswith('qemu-') and vm['saved'].get('folded_pages', 0) > FOLDED_MIN
               for vm in vms)


def is_back(box, old):
    return (box.daemon() not in (old, '0') and box.property('SubState') == 'running'
            and box.run(f'{BIN}/ramfold', 'status', check=False) != '')


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


def body(box):
    box.run('systemctl', 'start', 'ramfold.service')
    guest = Talker(box, 'env', f'LD_PRELOAD={BIN}/libramfold-agent.so', 'RAMFOLD_SETTLE_MS=20',
                   f'{BIN}/storm_guest', '--guest', '0', '--seed', '7', '--pages', '1024',
                   '--threads', '2')
    wait('folding', lambda: folds(box), 10)
    ok('a guest is folded by the hardened unit')

    old = box.daemon()
    box.run('kill', '-KILL', old)
    took = wait('the daemon after SIGKILL', lambda: is_back(box, old))
    guest.check()
    ok(f'killed: back after {took:.1f} s')

    for how, words in (('SIGKILL', ('kill', '-KILL')), ('SIGTERM', ('kill', '-TERM'))):
        wait('folding', lambda: folds(box), 60)
        attacker = held_attacker(box)
        old = box.daemon()
        box.run(*words, old)
        took = wait(f'the daemon after {how}, held', lambda: is_back(box, old))
        if not any(state == 'D' for _, state in box.threads(old)):
            raise Failed(f'{how}: the old daemon has ended: this proves nothing')
        guest.check()
        ok(f'{how} while a VM keeps the daemon from ending: back after {took:.1f} s')
        let_go(box, attacker)
        wait('the end of the old daemon', lambda: box.threads(old) == [])
        guest.check()
    wait('folding', lambda: folds(box), 60)
    ok('once it lets go, the old daemon ends and everything is folded again')


def main():
    source, *programs = sys.argv[1:]
    for device in ('/dev/fuse', '/dev/userfaultfd'):
        if not os.path.exists(device):
            print(f'skipped: needs {device}')
            sys.exit(77)
    box = Box(source, programs)
    try:
        box.start()
        body(box)
    except Failed as e:
        print(f'FAILED: {e}')
        print(box.run(f'{BIN}/ramfold', 'list', '--json', check=False))
        print(box.run('systemctl', 'status', '--no-pager', '-l', '-n', '40', 'ramfold',
                      check=False))
        print(subprocess.run(['tail', '-60', f'{box.dir}/console'], stdout=subprocess.PIPE,
                             text=True, check=False).stdout)
        sys.exit(1)
    finally:
        box.stop()


if __name__ == '__main__':
    main()
