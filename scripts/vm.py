#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Starts, asks and stops real VMs: for tests, the demo and by hand.

As a library (see the classes' own descriptions):

    with vm.Vm(vm.guest("web"), "web1", run_dir, wrapper=["ramfold", "exec", "--"]) as web:
        web.wait_ready(60)
        print(web.sh("ramcheck ask check"))
        web.qmp("balloon", value=256 << 20)

By hand:

    vm.py start KIND NAME [--wrapper 'ramfold exec --'] [--balloon reporting] [-- QEMU ARGUMENT...]
    vm.py sh NAME COMMAND          vm.py qmp NAME COMMAND [JSON]
    vm.py wait NAME                vm.py stop NAME...

Guests run under TCG unless told otherwise, with RAM in a shared memory file and buffered disks
whose writes are thrown away. Only processes that were started here are ever signalled.
"""
import argparse
import dataclasses
import fcntl
import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

from patience import deadline, slower

SCRIPTS = pathlib.Path(__file__).resolve().parent
QEMU = os.environ.get("RAMFOLD_QEMU", "qemu-system-x86_64")
# QEMU 7.2 under TCG corrupts flags around cmpxchg16b: newer kernels crash at boot without "-cx16".
CPU = "qemu64,-cx16"
PROBE_EVERY_S = 2
KINDS = ("web", "kv", "mini", "disks", "db", "script")  # of scripts/guests.sh


class VmError(Exception):
    """A VM did not do what it was asked to."""


@dataclasses.dataclass(frozen=True)
class Guest:
    """What runs in a VM: files to boot, and what its first serial port says when it is ready."""
    kind: str
    kernel: str
    initrd: str = ""
    disk: str = ""
    append: str = ""
    ready: str = "GUEST-READY"
    machine: str = "q35"


def build_images(*kinds):
    """Builds images that are missing (progress goes to stderr) and returns their directories."""
    done = subprocess.run([SCRIPTS / "guests.sh", "build", *kinds], stdout=subprocess.PIPE,
                          text=True, check=False)
    if done.returncode:
        raise VmError("the guest images could not be built")
    return [pathlib.Path(line) for line in done.stdout.splitlines()]


# no_timer_check: on a busy host the kernel takes a late timer of TCG for a broken one, and panics.
def guest(kind):
    """A Linux guest of scripts/guests.sh: one of KINDS."""
    image = build_images(kind)[0]
    facts = json.loads((image / "image.json").read_text())
    return Guest(kind=kind, kernel=str(image / "vmlinuz"), initrd=str(image / "initrd.gz"),
                 disk=str(image / "disk.ext4") if facts["disk"] else "",
                 append="console=ttyS0 panic=-1 mitigations=off quiet no_timer_check "
                        f"init={facts['init']}")


def flat_guest(elf, mib=64, pace_ms=20, rounds=0):
    """The flat 32-bit guest of tests/vm/flat, which also runs where KVM cannot run Linux."""
    return Guest(kind="flat", kernel=str(elf), ready="FLAT ready", machine="pc",
                 append=f"mib={mib} pace_ms={pace_ms} rounds={rounds}")


def kvm_unusable():
    """Why /dev/kvm cannot be used here, or an empty string."""
    if not os.path.exists("/dev/kvm"):
        return "there is no /dev/kvm"
    kvm_create_vm = 0xAE01
    try:
        kvm = os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)
        try:
            os.close(fcntl.ioctl(kvm, kvm_create_vm, 0))
        finally:
            os.close(kvm)
    except OSError as error:
        return f"/dev/kvm: {error.strerror}"
    return ""


def ask_qmp(at, command, timeout_s=30, **arguments):
    """One QMP command over a connection of its own: its result, VmError on an error or when QEMU
    does not answer in time."""
    try:
        return _ask_qmp(at, command, timeout_s, arguments)
    except socket.timeout:
        raise VmError(f"{command}: QEMU does not answer in time ({timeout_s} s on a machine that "
                      "is not busy)") from None


def _ask_qmp(at, command, timeout_s, arguments):
    with socket.socket(socket.AF_UNIX) as link:
        link.settimeout(timeout_s * slower())
        link.connect(str(at))
        stream = link.makefile("rw")

        def request(name, values):
            line = {"execute": name}
            if values:
                line["arguments"] = values
            stream.write(json.dumps(line) + "\n")
            stream.flush()
            for text in stream:
                reply = json.loads(text)
                if "error" in reply:
                    raise VmError(f"{name}: {reply['error']['desc']}")
                if "return" in reply:
                    return reply["return"]
            raise VmError(f"{name}: QEMU closed the connection")

        stream.readline()  # the greeting
        request("qmp_capabilities", {})
        return request(command, arguments)


def run_in_guest(path, command, timeout_s=60):
    """Runs a command in the root shell on the guest's second serial port: (status, output)."""
    token = f"{os.getpid()}-{time.monotonic_ns()}"
    end = re.compile(rf"DONE-{token}:(\d+)\n")
    # Token and prefix are apart in what is sent: an echo of it must not be taken for the end.
    begin = f"BEGIN-{token}\n"
    line = (f"\nprintf 'BEGIN-%s\\n' {token}\n"
            f"( {command}\n) </dev/null 2>&1; printf 'DONE-%s:%d\\n' {token} $?\n")
    # A guest that is ready may not have opened its second port yet, and loses what came before: it
    # is asked until it answers, with a line that does no harm when only its end arrives.
    probe, awake = f"\necho AWAKE$nothing-{token}\n", f"AWAKE-{token}"
    until = deadline(timeout_s)
    with socket.socket(socket.AF_UNIX) as link:
        link.connect(str(path))
        seen, answered, next_probe = "", False, 0.0
        while True:
            now = time.monotonic()
            if now > until:
                raise VmError(f"{command!r}: no end after {timeout_s} s: {seen[-500:]!r}")
            if not answered and now >= next_probe:
                link.sendall(probe.encode())
                next_probe = now + PROBE_EVERY_S
            link.settimeout(min(PROBE_EVERY_S, max(0.01, until - now)))
            try:
                part = link.recv(65536)
            except socket.timeout:
                continue
            if not part:
                raise VmError(f"{command!r}: the VM is gone")
            seen += part.decode(errors="replace").replace("\r", "")
            if not answered and awake in seen:
                answered = True
                link.sendall(line.encode())
            match = end.search(seen)
            if match:
                start = seen.find(begin)
                return int(match[1]), seen[start + len(begin) if start >= 0 else 0:match.start()]


def start_ticks(pid):
    """When a process was started, in ticks since boot; with its id it names it for ever."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]
    except OSError:
        return ""


class Vm:
    """One VM. It is started by start() or by entering the context, and stopped when that is left.

    run_dir   holds NAME.serial (first serial port), NAME.log (QEMU's own words), NAME.qmp, NAME.sh
    wrapper   a command put before QEMU's; it has to become QEMU with exec, keeping its pid
    env       variables added to QEMU's environment
    ram       "memfd", which can be folded, or "anonymous", what QEMU takes when nothing is said
    balloon   None, "plain" or "reporting" (free page reporting)
    accel     "tcg" or "kvm"
    extra     further QEMU arguments
    outlive   keep running when the starting process ends

    A VM dies with the *thread* that started it, unless it outlives: start it from the main thread.
    """

    def __init__(self, guest_, name, run_dir, *, memory_mib=512, wrapper=(), env=None,
                 ram="memfd", balloon="reporting", accel="tcg", cpus=1, extra=(), outlive=False):
        self.guest = guest_
        self.name = name
        self.run_dir = pathlib.Path(run_dir).resolve()
        self.memory_mib = memory_mib
        self.wrapper = list(wrapper)
        self.env = dict(env or {})
        self.ram = ram
        self.balloon = balloon
        self.accel = accel
        self.cpus = cpus
        self.extra = list(extra)
        self.outlive = outlive
        self.process = None
        self.ready_s = None
        self._started = 0.0

    def _path(self, suffix):
        return self.run_dir / f"{self.name}.{suffix}"

    @property
    def pid(self):
        return self.process.pid

    @property
    def qmp_path(self):
        return self._path("qmp")

    def command(self):
        """The whole command line."""
        memory = f"{self.memory_mib}M"
        accel = "tcg,tb-size=64" if self.accel == "tcg" else self.accel
        line = [] if self.outlive else ["setpriv", "--pdeathsig", "KILL", "--"]
        line += [*self.wrapper, QEMU, "-name", self.name, "-nodefaults", "-no-user-config",
                 "-display", "none", "-no-reboot",
                 "-machine", f"{self.guest.machine},usb=off",
                 "-accel", accel, "-cpu", CPU, "-smp", str(self.cpus), "-m", memory,
                 "-kernel", self.guest.kernel, "-append", self.guest.append,
                 "-serial", f"file:{self._path('serial')}",
                 "-chardev", f"socket,id=shell,path={self._path('sh')},server=on,wait=off",
                 "-serial", "chardev:shell", "-qmp", f"unix:{self.qmp_path},server=on,wait=off"]
        if self.ram == "memfd":
            line += ["-object", f"memory-backend-memfd,id=ram,size={memory},share=on",
                     "-machine", "memory-backend=ram"]
        if self.guest.initrd:
            line += ["-initrd", self.guest.initrd]
        if self.guest.disk:
            line += ["-drive", f"file={self.guest.disk},format=raw,if=virtio,snapshot=on,"
                               "cache=writeback"]
        if self.balloon and self.guest.kind != "flat":
            report = ",free-page-reporting=on" if self.balloon == "reporting" else ""
            line += ["-device", f"virtio-balloon-pci,id=balloon{report}"]
        return line + self.extra

    def start(self):
        self.run_dir.mkdir(parents=True, exist_ok=True)
        for suffix in ("serial", "log", "qmp", "sh"):
            self._path(suffix).unlink(missing_ok=True)
        self._started = time.monotonic()
        with open(self._path("log"), "w", encoding="utf-8") as log:
            self.process = subprocess.Popen(
                self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env={**os.environ, "TMPDIR": str(self.run_dir), **self.env},
                start_new_session=self.outlive)
        return self

    def running(self):
        return self.process is not None and self.process.poll() is None

    def serial(self):
        """All that the guest has written to its first serial port."""
        try:
            return self._path("serial").read_text(errors="replace")
        except FileNotFoundError:
            return ""

    def log(self):
        return self._path("log").read_text(errors="replace")

    def wait_serial(self, pattern, timeout_s, count=1, what=None):
        """Waits until a pattern has come `count` times on the first serial port; the last match.
        `what` says in words what is waited for."""
        end = deadline(timeout_s)
        while True:
            alive = self.running()  # before reading, so that the last words of a dead VM count
            found = list(re.finditer(pattern, self.serial()))
            if len(found) >= count:
                return found[count - 1]
            if not alive:
                raise VmError(f"{self.name}: QEMU ended: {self.log()[-1000:]} "
                              f"{self.serial()[-500:]!r}")
            if time.monotonic() > end:
                raise VmError(f"{self.name}: {what or f'no {pattern!r}'}, {self.age_s():.0f} s "
                              f"after its start; its console's last lines: {self.serial()[-500:]}")
            time.sleep(0.1)

    def wait_ready(self, timeout_s=180):
        self.wait_serial(re.escape(self.guest.ready), timeout_s,
                         what="its service does not answer yet")
        self.ready_s = self.age_s()
        return self

    def age_s(self):
        return time.monotonic() - self._started

    def qmp(self, command, timeout_s=30, **arguments):
        return ask_qmp(self.qmp_path, command, timeout_s, **arguments)

    def run(self, command, timeout_s=60):
        """Runs a command in the guest. Returns (status, output)."""
        return run_in_guest(self._path("sh"), command, timeout_s)

    def sh(self, command, timeout_s=60):
        """Runs a command in the guest that has to succeed, returns its output."""
        status, output = self.run(command, timeout_s)
        if status:
            raise VmError(f"{self.name}: {command!r} ended with {status}: {output[-1000:]}")
        return output.strip()

    def check(self, timeout_s=300):
        """Has the guest verify its whole working set; its line, VmError when not intact."""
        return self.sh("ramcheck ask check", timeout_s)

    def check_service(self, timeout_s=300):
        """Has the guest ask its service for everything once; its line, VmError when not intact."""
        return self.sh("ramcheck ask service", timeout_s)

    def balloon_mib(self):
        """How much RAM the balloon leaves to the guest."""
        return self.qmp("query-balloon")["actual"] >> 20

    def set_balloon(self, mib, timeout_s=60):
        """Inflates or deflates until the guest has so much RAM."""
        self.qmp("balloon", value=mib << 20)
        end = deadline(timeout_s)
        while self.balloon_mib() != mib:
            if time.monotonic() > end:
                raise VmError(f"{self.name}: the balloon stays at {self.balloon_mib()} MiB")
            time.sleep(0.1)

    def ram_file(self):
        """A path by which the host can open the guest's RAM file."""
        directory = f"/proc/{self.pid}/fd"
        for fd in os.listdir(directory):
            try:
                if os.readlink(f"{directory}/{fd}").startswith("/memfd:memory-backend-memfd"):
                    return f"{directory}/{fd}"
            except FileNotFoundError:
                continue  # closed meanwhile
        raise VmError(f"{self.name}: QEMU has no RAM file")

    def ram_resident_bytes(self):
        """Memory that the host spends on the guest's RAM now: what its RAM file holds."""
        return os.stat(self.ram_file()).st_blocks * 512

    def stop(self):
        """Ends QEMU, politely at first. Returns its exit status."""
        if self.process is None:
            return None
        ask = lambda: self.qmp("quit", timeout_s=2)  # noqa: E731
        for end in (ask, self.process.terminate, self.process.kill):
            if not self.running():
                break
            try:
                end()
                self.process.wait(5)
            except (OSError, VmError, subprocess.TimeoutExpired):
                continue
        return self.process.wait()

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.stop()


class RunDir:
    """A directory for VMs' files: a temporary one that goes away, or a given one that stays."""

    def __init__(self, given=None):
        self.given = given
        self.path = None

    def __enter__(self):
        if self.given:
            self.path = pathlib.Path(self.given)
            self.path.mkdir(parents=True, exist_ok=True)
        else:
            # Not in /tmp, which may be memory: guests' disk writes go there.
            self.path = pathlib.Path(tempfile.mkdtemp(prefix="ramfold-vm-", dir="/var/tmp"))
        return self.path

    def __exit__(self, *_):
        if not self.given:
            shutil.rmtree(self.path, ignore_errors=True)


def exit_on_signals():
    """Lets SIGTERM and SIGINT unwind the stack, so that VMs are stopped."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda got, _: sys.exit(128 + got))


def skip(reason):
    """Ends a test that cannot run here."""
    print(f"SKIP: {reason}")
    sys.exit(77)


# ---- by hand ------------------------------------------------------------------------------------

def main():
    parser = argparse.ArgumentParser(description="start, ask and stop VMs by hand")
    parser.add_argument("--dir", default=os.environ.get("RAMFOLD_VM_DIR", "/var/tmp/ramfold-vms"))
    parts = parser.add_subparsers(dest="what", required=True)
    part = parts.add_parser("start")
    part.add_argument("kind", help=f"{', '.join(KINDS)}, or the path of a flat guest")
    part.add_argument("name")
    part.add_argument("--wrapper", default="")
    part.add_argument("--balloon", default="reporting", choices=["none", "plain", "reporting"])
    part.add_argument("--memory-mib", type=int, default=512)
    part.add_argument("--accel", default="tcg")
    part.add_argument("--timeout-s", type=int, default=180)
    part.add_argument("--no-wait", action="store_true")
    part.add_argument("extra", nargs="*", help="QEMU arguments, after --")
    part = parts.add_parser("wait")
    part.add_argument("name")
    part.add_argument("--timeout-s", type=int, default=180)
    part = parts.add_parser("sh")
    part.add_argument("name")
    part.add_argument("command")
    part.add_argument("--timeout-s", type=int, default=300)
    part = parts.add_parser("qmp")
    part.add_argument("name")
    part.add_argument("command")
    part.add_argument("arguments", nargs="?", default="{}")
    part = parts.add_parser("stop")
    part.add_argument("name", nargs="+")
    wanted = parser.parse_args()
    run_dir = pathlib.Path(wanted.dir)

    def note(name):
        return run_dir / f"{name}.json"

    def wait(name, ready, timeout_s):
        end = deadline(timeout_s)
        while ready not in (run_dir / f"{name}.serial").read_text(errors="replace"):
            if time.monotonic() > end:
                raise VmError(f"{name}: not ready after {timeout_s} s")
            time.sleep(0.2)

    if wanted.what == "start":
        if wanted.kind in KINDS:
            what = guest(wanted.kind)
        else:
            what = flat_guest(pathlib.Path(wanted.kind).resolve())
        machine = Vm(what, wanted.name, run_dir, memory_mib=wanted.memory_mib, accel=wanted.accel,
                     wrapper=shlex.split(wanted.wrapper), extra=wanted.extra, outlive=True,
                     balloon=None if wanted.balloon == "none" else wanted.balloon).start()
        note(wanted.name).write_text(json.dumps(
            {"pid": machine.pid, "start_ticks": start_ticks(machine.pid), "ready": what.ready}))
        try:
            if not wanted.no_wait:
                machine.wait_ready(wanted.timeout_s)
        except VmError:
            machine.stop()
            raise
        print(machine.pid)
    elif wanted.what == "wait":
        wait(wanted.name, json.loads(note(wanted.name).read_text())["ready"], wanted.timeout_s)
    elif wanted.what == "sh":
        status, output = run_in_guest(run_dir / f"{wanted.name}.sh", wanted.command,
                                      wanted.timeout_s)
        sys.stdout.write(output)
        return status
    elif wanted.what == "qmp":
        print(json.dumps(ask_qmp(run_dir / f"{wanted.name}.qmp", wanted.command,
                                 **json.loads(wanted.arguments)), indent=2))
    elif wanted.what == "stop":
        for name in wanted.name:
            known = json.loads(note(name).read_text())
            if start_ticks(known["pid"]) == known["start_ticks"]:
                os.kill(known["pid"], signal.SIGTERM)
            for path in run_dir.glob(f"{name}.*"):
                path.unlink()
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except VmError as problem:
        sys.exit(f"vm: {problem}")
