#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel gives the daemon no threads: the daemon goes on with the threads that it has, and
logs this once. A daemon that is started meanwhile begins to work when there are threads. No guest
reads a wrong byte, and none waits for ever.

Exits 77 where a userfaultfd cannot be driven from outside."""
import os
import sys
import time

from rig import Failed, Rig, binary, need_userfaultfd, run, say
from storm import SEED, finish, progress_of, start, wait_for_progress

DENIED_SECONDS = 4


def said(rig, text):
    with open(f'{rig.dir}/daemon.log', errors='replace') as log:
        return sum(text in line for line in log)


def deny():
    with open(os.environ['RAMFOLD_THREADS_DENIED'], 'w'):
        pass


def allow():
    os.unlink(os.environ['RAMFOLD_THREADS_DENIED'])


def no_threads(rig):
    start(rig, 2, '--pages', '2048')
    deny()
    # A guest that ends, one that comes, faults all the while: each would have had a thread.
    victim = rig.guests.pop()
    victim.process.kill()
    victim.process.wait()
    comes = rig.add_guest('--pages', '1024')
    wait_for_progress(rig, progress_of(rig))
    time.sleep(DENIED_SECONDS)
    rig.must_be_well()
    rig.guests[0].check()
    allow()
    rig.wait_folded(200, 60)
    rig.wait(lambda: said(rig, 'references given up') == 1, 60, 'the burial')
    comes.check()
    say('a daemon that gets no more threads goes on, and catches up')

    rig.kill_daemon()
    deny()
    rig.start_daemon()
    rig.wait(lambda: said(rig, 'the work of that thread waits') == 1, 20, 'the complaint')
    time.sleep(DENIED_SECONDS)
    rig.must_be_well()
    allow()
    wait_for_progress(rig, progress_of(rig))
    rig.wait_folded(200, 60)
    if said(rig, 'the work of that thread waits') != 1 or said(rig, 'all threads run') != 1:
        raise Failed(f'what is said: {rig.log_tail()}')
    say('one that was started without threads begins when there are some')

    deny()
    code = rig.stop_daemon(20)
    if code != 0:
        raise Failed(f'stopped with {code}: {rig.log_tail()}')
    allow()
    rig.start_daemon()
    rig.wait_folded(200, 60)
    finish(rig)


def main():
    need_userfaultfd()
    rig = Rig(seed=SEED, daemon='RAMFOLDD')
    rig.daemon_preloads = [binary('RAMFOLD_DENIES_THREADS')]
    os.environ['RAMFOLD_THREADS_DENIED'] = f'{rig.dir}/no-threads'
    sys.exit(run(rig, no_threads))


if __name__ == '__main__':
    main()
