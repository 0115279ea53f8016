#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A daemon that may not load its BPF program folds nothing and says why; the next one, which may,
folds.

Exits 77 where a userfaultfd cannot be driven from outside."""
import shutil
import sys
import time

from rig import Failed, Rig, need_userfaultfd, run, say
from storm import SEED, finish

CAPABILITIES = '-bpf,-perfmon,-sys_admin'
QUIET_S = 5  # several passes


def reason(reasons, code):
    return next((one for one in reasons if one['code'] == code), None)


def refused(rig):
    snapshot = rig.snapshot()
    return snapshot and snapshot['vms'] and reason(snapshot['vms'][0]['reasons'], 'no_pin_test')


def no_pin_test(rig):
    rig.add_guest('--pages', '2048')
    rig.before_daemon = ['setpriv', f'--bounding-set={CAPABILITIES}', '--']
    rig.start_daemon()
    rig.wait(lambda: refused(rig), 60, 'the reason')
    time.sleep(QUIET_S)
    snapshot = rig.snapshot()
    vm = snapshot['vms'][0]
    for why in (reason(vm['reasons'], 'no_pin_test'),
                reason(snapshot['host']['reasons'], 'no-pin-test')):
        if not why or 'not permitted' not in why['text'] or 'CAP_BPF' not in why['remedy']:
            raise Failed(f'the reason does not help: {why}')
    if vm['gate'] != 'closed' or vm['saved']['folded_pages'] or vm['state'] != 'observe-only':
        raise Failed(f'it is {vm["state"]}, {vm["gate"]}, {vm["saved"]}')
    if snapshot['host']['state'] != 'observe-only':
        raise Failed(f'the host is {snapshot["host"]["state"]}')
    rig.must_be_well()
    say(reason(vm['reasons'], 'no_pin_test')['text'])
    rig.kill_daemon()
    rig.before_daemon = []
    rig.start_daemon()
    rig.wait_folded(200, 60)
    rig.guests[0].check()
    finish(rig)


def main():
    need_userfaultfd()
    if not shutil.which('setpriv'):
        print('no setpriv here')
        sys.exit(77)
    sys.exit(run(Rig(seed=SEED), no_pin_test))


if __name__ == '__main__':
    main()
