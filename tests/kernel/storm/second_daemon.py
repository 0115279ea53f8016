#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""One daemon per host (L8): a second daemon ends at once. After the death of the first daemon the
next one can start, although the keeper holds duplicates of the first one's descriptors.

Exits 77 where a userfaultfd cannot be driven from outside."""
import subprocess
import sys

from rig import Failed, Rig, binary, need_userfaultfd, run, say, slower
from storm import SEED, finish, start

REFUSED_SECONDS = 10


def second(rig):
    """What a further daemon says as it ends."""
    process = subprocess.Popen(
        [binary(rig.daemon_binary), '--config', f'{rig.dir}/config.toml'],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        said = process.communicate(timeout=REFUSED_SECONDS * slower())[1]
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise Failed('two daemons run') from None
    if process.returncode == 0 or 'another ramfoldd is running' not in said:
        raise Failed(f'the second daemon ended with {process.returncode}: {said}')
    return said.strip().splitlines()[-1]


def second_daemon(rig):
    start(rig, 1, '--pages', '2048')
    say(second(rig))
    rig.must_be_well()
    for turn in range(2):
        rig.kill_daemon()
        rig.start_daemon()
        rig.wait_folded(200, 60)
        second(rig)
        rig.guests[0].check()
        say(f'turn {turn}: a successor serves, a second one does not')
    finish(rig)


def main():
    need_userfaultfd()
    sys.exit(run(Rig(seed=SEED), second_daemon))


if __name__ == '__main__':
    main()
