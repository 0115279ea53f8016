# SPDX-License-Identifier: GPL-2.0-or-later
"""Does for the keeper what systemd does: takes descriptors by datagram and passes them to the next
keeper.

It has read all that a keeper sent before it starts the next, because systemd has: its notification
socket has a better priority (NORMAL-8) than the deaths of processes (NORMAL-7; src/core/manager.c),
and what a killed process sent lies in that socket before it is dead. So no death is looked at while
a message is unread, and no service is started again before its death was looked at.

The stored descriptors stay as messages in sockets. This process owns them only while it starts a
keeper, because no process may have a descriptor of a dead guest's RAM."""
import array
import fcntl
import os
import select
import signal
import socket
import threading

FIRST_PASSED = 3  # SD_LISTEN_FDS_START
FIRST_OURS = 600  # above all that are passed, so that none is overwritten on the way
CONTROL_BYTES = socket.CMSG_SPACE(4)


def fd_of(control):
    """The descriptor that came with a message, or None."""
    for level, kind, data in control:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            return array.array('i', data[:4])[0]
    return None


def high(fd):
    try:
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, FIRST_OURS)
    finally:
        os.close(fd)


class Process:
    """As much of subprocess.Popen as the rig asks of its keeper."""

    def __init__(self, pid):
        self.pid = pid
        self.returncode = None

    def poll(self):
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self):
        self.send_signal(signal.SIGKILL)

    def wait(self):
        if self.returncode is None:
            self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.returncode


class ServiceManager:
    def __init__(self, path):
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(path)
        self.lock = threading.Lock()
        self.stored = {}
        self.wrong = []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        while True:
            select.select([self.socket], [], [])
            with self.lock:
                self._apply_queued()

    def _apply_queued(self):
        while True:
            try:
                text, control, _, _ = self.socket.recvmsg(4096, CONTROL_BYTES, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            lines = [line for line in text.decode().split('\n') if line]
            self._apply(dict(line.split('=', 1) for line in lines), fd_of(control))

    def _apply(self, message, fd):
        name = message.get('FDNAME')
        if 'FDSTORE' in message:
            if fd is None or name in self.stored:
                self.wrong.append(f'stored {name} without a descriptor, or twice')
            else:
                self.stored[name] = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
                socket.send_fds(self.stored[name][0], [b'k'], [fd])
        elif 'FDSTOREREMOVE' in message:
            if name in self.stored:
                for end in self.stored.pop(name):
                    end.close()
            else:
                self.wrong.append(f'removed {name}, which was not stored')
        if fd is not None:
            os.close(fd)

    def names(self):
        with self.lock:
            return set(self.stored)

    def start(self, command, log):
        """The keeper, with all that its predecessor had stored and had not removed."""
        with self.lock:
            self._apply_queued()
            stored = [(name, high(fd_of(ends[1].recvmsg(1, CONTROL_BYTES, socket.MSG_PEEK)[1])))
                      for name, ends in self.stored.items()]
            env = dict(os.environ, NOTIFY_SOCKET=self.path, LISTEN_FDS=str(len(stored)),
                       LISTEN_FDNAMES=':'.join(name for name, _ in stored))
            moves = [(os.POSIX_SPAWN_DUP2, log.fileno(), 2)]
            moves += [(os.POSIX_SPAWN_DUP2, fd, FIRST_PASSED + i)
                      for i, (_, fd) in enumerate(stored)]
            shell = ['/bin/sh', '-c', 'LISTEN_PID=$$ exec "$0" "$@"', *command]
            process = Process(os.posix_spawn(shell[0], shell, env, file_actions=moves))
            for _, fd in stored:
                os.close(fd)
            return process
