#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Daemon and keeper have no descriptor left for clients that connect to their sockets: they wait
without spinning, log this once, and serve the clients as soon as there are descriptors again.

Exits 77 where a userfaultfd cannot be driven from outside."""
import os
import resource
import socket
import subprocess
import sys
import time

from rig import Failed, Rig, binary, need_userfaultfd, run, say, slower
from sockets import listening
from storm import SEED

WATCHED_SECONDS = 3
LOOKS = 50
BUSY_MAX = 0.1  # of a core; who spins takes all that it can get


def cpu_seconds(pid):
    with open(f'/proc/{pid}/stat') as f:
        fields = f.read().rsplit(')', 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')


def first_free(pid):
    numbers = {int(name) for name in os.listdir(f'/proc/{pid}/fd')}
    return next(n for n in range(len(numbers) + 1) if n not in numbers)


def take_descriptors(pid):
    """The process may open no more; returns its limit from before."""
    free = first_free(pid)
    for _ in range(LOOKS):  # one may be in use for a moment only
        time.sleep(0.02)
        free = min(free, first_free(pid))
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (free, before[1]))
    return before


def knock(path, kind):
    client = socket.socket(socket.AF_UNIX, kind)
    client.settimeout(10 * slower())
    client.connect(path)
    return client


def said(rig, text):
    with open(f'{rig.dir}/daemon.log', errors='replace') as log:
        return sum(text in line for line in log)


def waits_quietly(rig, pid, what, path, kind, complaint):
    lines = said(rig, complaint)
    before = take_descriptors(pid)
    with knock(path, kind), knock(path, kind):
        rig.wait(lambda: said(rig, complaint) > lines, 10, f'{what}: the complaint')
        began, cpu = time.monotonic(), cpu_seconds(pid)
        time.sleep(WATCHED_SECONDS)
        used = (cpu_seconds(pid) - cpu) / (time.monotonic() - began)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
        if used > BUSY_MAX:
            raise Failed(f'{what}: takes {used:.0%} of a core while it has no descriptor')
        if said(rig, complaint) != lines + 1:
            raise Failed(f'{what}: says {said(rig, complaint) - lines} times that it has none')
    say(f'{what}: {used:.1%} of a core without descriptors, said once')


def self_test_is_over(rig):
    snapshot = rig.snapshot()
    return bool(snapshot) and bool(snapshot['host']['self_test'])


def restart_keeper(rig):
    """With more descriptors than it polls, because poll(2) fails beyond the limit of open files."""
    rig.kill_keeper()
    os.unlink(f'{rig.dir}/keeper.sock')
    with open(os.devnull) as null:
        more = [os.dup(null.fileno()) for _ in range(100)]
        rig.keeper = subprocess.Popen(
            [binary('RAMFOLD_KEEPER'), '--socket', f'{rig.dir}/keeper.sock'], stderr=rig.log,
            pass_fds=more)
        for fd in more:
            os.close(fd)
    rig.wait(lambda: listening(f'{rig.dir}/keeper.sock'), 10, 'the keeper')


def descriptors(rig):
    restart_keeper(rig)
    rig.start_daemon()
    rig.wait(rig.served_by_newest, 20, 'the daemon')
    rig.wait(lambda: self_test_is_over(rig), 20, 'the self-test')
    waits_quietly(rig, rig.daemon.pid, 'agents', f'{rig.dir}/agent.sock', socket.SOCK_SEQPACKET,
                  'agents cannot be accepted')
    waits_quietly(rig, rig.daemon.pid, 'control', f'{rig.dir}/control.sock', socket.SOCK_STREAM,
                  'control: accept')
    waits_quietly(rig, rig.keeper.pid, 'keeper', f'{rig.dir}/keeper.sock', socket.SOCK_SEQPACKET,
                  'nobody can be accepted')
    # A guest that came meanwhile is attached in the end.
    before = take_descriptors(rig.daemon.pid)
    guest = rig.add_guest('--pages', '1024')
    time.sleep(1)
    resource.prlimit(rig.daemon.pid, resource.RLIMIT_NOFILE, before)
    rig.wait_folded(200, 60)
    guest.check()
    say('a guest that came meanwhile is folded and right')


def main():
    need_userfaultfd()
    sys.exit(run(Rig(seed=SEED, daemon='RAMFOLDD'), descriptors))


if __name__ == '__main__':
    main()
