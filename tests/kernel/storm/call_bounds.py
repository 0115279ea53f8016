#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""No call on guest RAM covers more than 4 MiB (T1), and no thread that serves a fault asks which
pages are resident (T3), while 128 MiB are registered, folded, brought back, discarded by the guest
at once, recovered and unfolded.

Exits 77 where a userfaultfd cannot be driven from outside."""
import collections
import os
import re
import sys

from rig import Rig, Failed, binary, need_userfaultfd, run, say
from storm import SEED, finish, wait_for_progress

CALL_MAX = 4 << 20
PAGES = 32768
LOOKUPS = ('lseek', 'mincore', 'pagemap_scan')
# What has to show, or the recorder saw nothing: who, the call, and what its longest covers at
# least.
MUST_SHOW = [
    ('ramfoldd', 'rf-fold', 'register', 1 << 20), ('ramfoldd', 'rf-fold', 'pagemap_scan', 1 << 20),
    ('ramfoldd', 'rf-fold', 'writeprotect', 4096), ('ramfoldd', 'rf-fold', 'fallocate', 4096),
    ('ramfoldd', 'rf-fault', 'copy', 4096),
    ('storm_guest', 'storm_guest', 'fallocate', 1 << 20),
    ('storm_guest', 'storm_guest', 'madvise', 1 << 20)]


def longest(path):
    """(program, thread, call) -> bytes; a thread's name without the number of its VM."""
    seen = collections.Counter()
    with open(path) as lines:
        for line in lines:
            program, thread, call, size = line.split()
            who = program, re.sub(r'^rf\d+-', 'rf-', thread), call
            seen[who] = max(seen[who], int(size))
    return seen


def judge(seen):
    for who, size in sorted(seen.items()):
        say(f'{" ".join(who):44} {size:>9}')
    for *who, least in MUST_SHOW:
        if seen[tuple(who)] < least:
            raise Failed(f'{" ".join(who)}: at most {seen[tuple(who)]} bytes: this proves nothing')
    far = [who for who, size in seen.items() if size > CALL_MAX]
    if far:
        raise Failed(f'more than {CALL_MAX} bytes in one call: {far}')
    asking = [who for who in seen if who[1] == 'rf-fault' and who[2] in LOOKUPS]
    if asking:
        raise Failed(f'asked for residency on the way up: {asking}')


def body(rig):
    guest = rig.add_guest('--pages', str(PAGES), '--rate', '1000')
    rig.start_daemon()
    rig.wait_folded(PAGES // 4, 120)
    guest.check(60)
    if not guest.ask('discard', 60).startswith('discarded'):
        raise Failed('the guest did not discard its RAM')
    guest.check(60)
    rig.wait_folded(PAGES // 4, 120)
    rig.kill_daemon()
    rig.start_daemon()
    wait_for_progress(rig, [guest.status()])
    rig.wait_folded(PAGES // 4, 120)
    finish(rig)
    judge(longest(os.environ['RAMFOLD_CALL_REPORT']))


def main():
    need_userfaultfd()
    rig = Rig(seed=SEED, daemon='RAMFOLDD')
    rig.preloads = [binary('RAMFOLD_CALL_RECORDER')]
    os.environ['RAMFOLD_CALL_REPORT'] = f'{rig.dir}/calls'
    sys.exit(run(rig, body))


if __name__ == '__main__':
    main()
