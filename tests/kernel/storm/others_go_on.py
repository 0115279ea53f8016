#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A keeper that does not answer, a VM that is refused, or RAM that is plugged in later is reported,
and does not hold up the others.

others_go_on.py keeper|refused|added. Exits 77 where a userfaultfd cannot be driven from outside."""
import signal
import sys
import time

from rig import Failed, Rig, run_named, say, wait
from off import QuietGuest, cli
from patience import slower

STOPPED_S = 30  # the daemon gives up on an answer of the keeper's after ten seconds
FACTOR_MAX = 0.01
ANSWER_S = 4    # of the daemon's, with a keeper that does not answer
LOSS = 'VMs are only observed until it is back'


def folded(guest, pages):
    return lambda: (v := guest.view()) and v['saved'].get('folded_pages', 0) >= pages


def attached(guest):
    return lambda: (v := guest.view()) and v['state'] not in ('connected', 'attaching')


def too_much_mib():
    with open('/proc/meminfo', encoding='ascii') as lines:
        total_kib = next(int(line.split()[1]) for line in lines if line.startswith('MemTotal'))
    return int(total_kib * FACTOR_MAX / 1024 * 1.2) + 1


def log_lines(rig, words):
    with open(f'{rig.dir}/daemon.log', encoding='utf-8') as log:
        return [line for line in log if words in line]


def keeper():
    """VMs are attached and their agents are answered while the keeper is stopped; what it has not
    got is not folded, and is once it goes on."""
    rig = Rig(seed=31)
    try:
        rig.start_daemon()
        with QuietGuest(rig, 16) as first:
            wait('it is folded', folded(first, 4000), 60)
            rig.keeper.send_signal(signal.SIGSTOP)
            stopped = time.monotonic()
            with QuietGuest(rig, 16) as second, QuietGuest(rig, 16) as third:
                for guest in (second, third):
                    wait('it is attached beside a stopped keeper', attached(guest), ANSWER_S)
                say(f'two more are attached {time.monotonic() - stopped:.1f} s after the keeper '
                    'stopped')
                while time.monotonic() - stopped < STOPPED_S:
                    began = time.monotonic()
                    views = [guest.view() for guest in (first, second, third)]
                    if time.monotonic() - began > ANSWER_S * slower():
                        raise Failed(f'no answer for {time.monotonic() - began:.1f} s')
                    if not all(views):
                        raise Failed(f'one of them is gone: {views}')
                    for view in views[1:]:
                        if view['saved'].get('folded_pages', 0) != 0:
                            raise Failed(f'folded, and the keeper has not got it: {view}')
                        if 'no-keeper' not in [reason['code'] for reason in view['reasons']]:
                            raise Failed(f'it is not told why: {view["reasons"]}')
                    time.sleep(0.5)
                wait('the log says it', lambda: log_lines(rig, LOSS), 60)
                with QuietGuest(rig, 16) as late:
                    wait('another is attached, after the daemon gave up on the keeper',
                         attached(late), ANSWER_S)
                    if len(lines := log_lines(rig, LOSS)) != 1:
                        raise Failed(f'told more than once: {lines}')
                    rig.keeper.send_signal(signal.SIGCONT)
                    for guest in (first, second, third, late):
                        wait('it is folded', folded(guest, 4000), 60)
                        guest.check()
                    back = log_lines(rig, 'keeper: connected')
                    if len(back) != 1 or len(lines := log_lines(rig, LOSS)) != 1:
                        raise Failed(f'each is told once: {lines}, {back}')
    finally:
        rig.keeper.send_signal(signal.SIGCONT)
        rig.close(keep=sys.exc_info()[0] is not None)


def refused():
    """A VM that is refused is in the list, with its why, and goes from there when it ends."""
    rig = Rig(seed=32, host=f'reserve = "1%"\nvm_ram_factor_max = {FACTOR_MAX}')
    try:
        rig.start_daemon()
        with QuietGuest(rig, too_much_mib(), '-name', 'vast') as vast, QuietGuest(rig, 16) as small:
            view = wait('it is told', vast.view, 60)
            if view['name'] != 'vast' or view['state'] != 'connected' \
                    or [reason['code'] for reason in view['reasons']] != ['refused'] \
                    or 'vm_ram_factor_max' not in view['reasons'][0]['text']:
                raise Failed(f'what is the matter with it? {view}')
            say(view['reasons'][0]['text'])
            wait('the other is folded', folded(small, 4000), 60)
            for _ in range(20):  # it asks again and again, and stays in the list
                pids = [vm['pid'] for vm in rig.snapshot()['vms']]
                if sorted(pids) != sorted([int(vast.pid), int(small.pid)]):
                    raise Failed(f'the list has {pids}')
                time.sleep(0.3)
            if (listed := cli(rig, 'list')).returncode != 0 or 'vast' not in listed.stdout:
                raise Failed(f'list: {listed}')
            no = cli(rig, 'attach', vast.pid)
            if no.returncode == 0 or 'vm_ram_factor_max' not in no.stderr:
                raise Failed(f'attach: {no}')
            vast.end()
            wait('it has ended', lambda: len(rig.snapshot()['vms']) == 1, 10)
    finally:
        rig.close(keep=sys.exc_info()[0] is not None)


def added():
    """RAM that is plugged in later is told, as RAM that is not folded; the rest is folded."""
    rig = Rig(seed=33)
    try:
        rig.start_daemon()
        with QuietGuest(rig, 16) as guest:
            wait('it is folded', folded(guest, 4000), 60)
            if reason := guest.reason('ram-added'):
                raise Failed(f'told, and nothing was added: {reason}')
            guest.add_ram(48)
            reason = wait('it is told', lambda: guest.reason('ram-added'), 60)
            if '48 MiB' not in reason['text'] or 'restart the VM' not in reason['remedy']:
                raise Failed(f'what is the matter? {reason}')
            say(reason['text'])
            view, = rig.snapshot()['vms']
            if 'ram-added' not in [reason['code'] for reason in view['reasons']]:
                raise Failed(f'not in the list: {view["reasons"]}')
            if (shown := cli(rig, 'show', guest.pid)).returncode != 0 \
                    or '48 MiB' not in shown.stdout:
                raise Failed(f'show: {shown}')
            wait('the rest stays folded', folded(guest, 4000), 60)
            view = guest.view()
            if view['gate'] != 'pinned' or view['state'] not in ('folding', 'idle'):
                raise Failed(f'the gate: {view["gate"]}, {view["state"]}, {view["reasons"]}')
            guest.check()
    finally:
        rig.close(keep=sys.exc_info()[0] is not None)


if __name__ == '__main__':
    sys.exit(run_named({'keeper': keeper, 'refused': refused, 'added': added}))
