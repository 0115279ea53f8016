#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Who is given /dev/userfaultfd: the members of agent_group and root, and nobody else.

strangers.py members|absent. Exits 77 where a userfaultfd cannot be driven from outside."""
import array
import grp
import os
import pathlib
import pwd
import signal
import socket
import stat
import struct
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / 'storm'))
from rig import Failed, Rig, need_userfaultfd, run, say  # noqa: E402
from patience import slower  # noqa: E402

USER = 65534
GROUP = 65533  # no name, no file belongs to it
WAIT_S = 20
HELLO, WELCOME, OFFER = 1, 2, 1
# header: magic, type, flags, length, generation; versions 1 to 1, 1 block, capabilities, no
# instance, no hazards, nothing folded.
HELLO_BYTES = struct.pack('<IHHII', 0x31574652, HELLO, 0, 56, 0) + \
    struct.pack('<HHIQ16sII', 1, 1, 1, 15, bytes(16), 0, 0)


def hear(path):
    """What who says hello gets: `device`, or why not."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as link:
        link.settimeout(WAIT_S * slower())
        try:
            link.connect(path)
        except PermissionError:
            return 'may not connect'
        try:
            link.send(HELLO_BYTES)
            message, control, _, _ = link.recvmsg(4096, socket.CMSG_SPACE(4 * 32))
        except (BrokenPipeError, ConnectionResetError):
            return 'hung up'
    fds = array.array('i')
    for level, kind, data in control:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data)
    if not message and not fds:
        return 'hung up'
    _, kind, _, _, _, _, action = struct.unpack_from('<IHHIIHH', message)
    for fd in fds:
        device = os.fstat(fd)
        if stat.S_ISCHR(device.st_mode) and \
                device.st_rdev == os.stat('/dev/userfaultfd').st_rdev:
            return 'device' if kind == WELCOME and action == OFFER else f'device with {kind}'
    return f'message {kind}, {len(fds)} descriptors'


def hear_as(path, uid, gid, groups):
    """hear(), in a process with these ids."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups(groups)
            os.setresgid(gid, gid, gid)
            os.setresuid(uid, uid, uid)
            os.write(writing, hear(path).encode())
        except BaseException as e:  # whatever it is, this process goes no further
            os.write(writing, f'failed: {e!r}'.encode())
        os._exit(0)
    os.close(writing)
    with open(reading) as answer:
        said = answer.read()
    os.waitpid(child, 0)
    return said


def must(what, said, wanted):
    say(f'{what}: {said}')
    if said != wanted:
        raise Failed(f'{what}: {said}, not {wanted}')


def start(rig):
    os.chmod(rig.dir, 0o755)
    rig.start_daemon()
    path = f'{rig.dir}/agent.sock'
    rig.wait(lambda: rig.snapshot() and os.path.exists(path), 20, 'the daemon')
    return path


def descriptors_of(rig):
    return len(os.listdir(f'/proc/{rig.daemon.pid}/fd'))


def members(rig):
    path = start(rig)
    gid = grp.getgrnam(AGENT_GROUP).gr_gid
    file = os.stat(path)
    if (stat.S_IMODE(file.st_mode), file.st_uid, file.st_gid) != (0o660, 0, gid):
        raise Failed(f'{path} is {stat.filemode(file.st_mode)} {file.st_uid}:{file.st_gid}')
    must('root', hear_as(path, 0, 0, []), 'device')
    must('a member by its own group', hear_as(path, USER, gid, []), 'device')
    must('a member by a further group', hear_as(path, USER, GROUP, [GROUP, gid]), 'device')
    must('with more groups than most', hear_as(path, USER, GROUP, [*range(70_000, 70_300), gid]),
         'device')
    must('a stranger', hear_as(path, USER, GROUP, []), 'may not connect')
    # libvirt's account, as Debian makes it; libvirt starts QEMU with all groups of its.
    try:
        libvirt = pwd.getpwnam('libvirt-qemu')
    except KeyError:
        say('no libvirt-qemu here')
    else:
        groups = os.getgrouplist(libvirt.pw_name, libvirt.pw_gid)
        must('libvirt-qemu', hear_as(path, libvirt.pw_uid, libvirt.pw_gid, groups), 'device')
    # The daemon keeps no more descriptors for itself when it has started.
    rig.wait(lambda: (s := rig.snapshot()) and s['host']['state'] != 'starting', 20,
             'the end of its start')
    # The file's mode is the first lock, the peer's ids are the second.
    os.chmod(path, 0o666)
    before = descriptors_of(rig)
    for _ in range(20):
        must('a stranger through an open door', hear_as(path, USER, GROUP, [GROUP]), 'hung up')
    must('root still', hear_as(path, 0, 0, []), 'device')
    rig.wait(lambda: descriptors_of(rig) <= before, 20, 'the end of what strangers began')
    log = pathlib.Path(rig.dir, 'daemon.log').read_text(errors='replace')
    lines = [line for line in log.splitlines() if f"group '{AGENT_GROUP}'" in line]
    if not lines or len(lines) > 15:
        raise Failed(f'{len(lines)} lines tell of the strangers')
    say(lines[0])
    must('a member still', hear_as(path, USER, gid, []), 'device')
    guest = rig.add_guest('--pages', '1024', '--threads', '2')
    rig.wait_folded(200, 60)
    guest.check()
    rig.must_be_well()


def absent(rig):
    """There is no such group: root alone, and the log names the remedy."""
    path = start(rig)
    if stat.S_IMODE(os.stat(path).st_mode) != 0o600:
        raise Failed(f'{path} is {stat.filemode(os.stat(path).st_mode)}')
    log = pathlib.Path(rig.dir, 'daemon.log').read_text(errors='replace')
    if f'groupadd --system {NO_GROUP}' not in log or 'agent_group' not in log:
        raise Failed('the log does not name the remedy')
    must('root', hear_as(path, 0, 0, []), 'device')
    must('somebody', hear_as(path, USER, GROUP, []), 'may not connect')
    os.chmod(path, 0o666)
    must('somebody through an open door', hear_as(path, USER, GROUP, [0]), 'hung up')
    rig.must_be_well()


# kvm is the default; a machine without it has root's group at least.
try:
    AGENT_GROUP = grp.getgrnam('kvm').gr_name
except KeyError:
    AGENT_GROUP = grp.getgrgid(USER).gr_name
NO_GROUP = 'ramfold-no-such-group'


def main():
    need_userfaultfd()
    what = sys.argv[1]
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    rig = Rig(daemon='RAMFOLDD', agent_group=NO_GROUP if what == 'absent' else AGENT_GROUP)
    return run(rig, {'members': members, 'absent': absent}[what])


if __name__ == '__main__':
    sys.exit(main())
