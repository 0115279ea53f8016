#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests read O_DIRECT disks on slow storage into memory that is folded all the time.

Every row is a VM with a disk of each device model (disk_rows.py), on storage whose reads take up
to 30 ms and end out of order (slow_storage.py). The guest's sectors verify themselves. No sector
may be wrong, and a row counts only when enough was folded and verified.

With --must-lose the daemon is one that breaks a rule on purpose: a wrong sector must be seen. A
request that fails is neither: the test then fails, and tells the request.
--self-test shows how a row's lines are judged, without a VM.
RAMFOLD_LONG=1: every row, an hour. RAMFOLD_SEED=n. RAMFOLD_MATRIX_DIRS=DIR:DIR...: directories on
other file systems that get a row each. RAMFOLD_QEMUS=PATH:PATH...: QEMUs beside those of the host.
"""
import dataclasses
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

import disk_rows
import slow_storage
import vm_tests
import patience
from patience import Patience
from vm_tests import ramfold_rig, rig_of, vm

LONG = os.environ.get("RAMFOLD_LONG", "0") == "1"
SEED = int(os.environ.get("RAMFOLD_SEED", "0")) or int(time.time())
MEMORY_MIB = 160
DISK_MIB = 16
CONFIG = {"fold": {"when": "eager", "passes": 1, "pass_seconds": 0.1, "backoff": False,
                   "stall_budget": 100},
          "reform": {"policy": "off"}, "scan": {"cpu": 1.0}}

ROW_S = 130 if LONG else 15
# What a row has to reach, however long it takes.
CHECKS_MIN = 100_000 if LONG else 20_000  # of each disk
FOLDS_MIN = 200_000 if LONG else 20_000
ROW_S_MAX = 600
LOSE_S_MAX = 120

PROGRESS = re.compile(r"^SECTORS(?P<done>-DONE)? disk=(?P<disk>\d+) .*checks=(?P<checks>\d+) "
                      r"later=(?P<later>\d+) wrong=(?P<wrong>\d+)", re.MULTILINE)
WRONG = re.compile(r"^WRONG .*$", re.MULTILINE)
FAILED = re.compile(r"^FAILED .*$", re.MULTILINE)
HELD_FROM_MIB = 96
HELD_MIB = 32
READER_PAGES = 1024  # of each disk's reader (disk_reader.c)


class Lost(vm.VmError):
    """A guest read something else than its disk holds."""


class DiskFailed(vm.VmError):
    """A guest's request failed, for example by its kernel's timeout. Nothing is wrong with data."""


def judged(said):
    """What each disk's reader has said last: {disk: (checks, later)}. Lost when a sector is wrong,
    DiskFailed when a request failed and no sector is wrong."""
    said = said.replace("\r", "")
    if wrong := WRONG.findall(said):
        raise Lost("\n".join(wrong[:4]))
    if failed := FAILED.findall(said):
        raise DiskFailed("a request failed, and no sector is wrong:\n" + "\n".join(failed[:4]))
    return {int(found["disk"]): (int(found["checks"]), int(found["later"]))
            for found in PROGRESS.finditer(said)}


def make_images(reader, images):
    """Every disk number as a raw image and as a qcow2."""
    images.mkdir(exist_ok=True)
    for number in range(len(disk_rows.DEVICES)):
        raw = images / f"{number}.raw"
        slow_storage.run(reader, "make", raw, DISK_MIB, number)
        slow_storage.run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw,
                         images / f"{number}.qcow2")


def version_of(path):
    """What a QEMU says of itself; None: there is none, or it does not run."""
    try:
        asked = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
    except OSError:
        return None
    return asked.stdout.partition("\n")[0] if asked.returncode == 0 else None


def qemus():
    """The QEMUs of this host, and those that RAMFOLD_QEMUS names: {version: path}."""
    named = [path for path in os.environ.get("RAMFOLD_QEMUS", "").split(":") if path]
    found = {}
    for path in (vm.QEMU, "/usr/bin/qemu-system-x86_64", "/usr/bin/qemu-kvm",
                 "/usr/libexec/qemu-kvm", "/usr/local/bin/qemu-system-x86_64", *named):
        if version := version_of(path):
            found.setdefault(version, path)
        elif path in named:
            raise vm.VmError(f"RAMFOLD_QEMUS: {path} does not run")
    return found


def tells_held(view, disks):
    """The daemon tells that a device holds the registered buffer. What a reader reads into is not
    cold, so it may be missing where it lies in the buffer. Elsewhere its reads hold pages, too."""
    moving = disks * READER_PAGES
    return (abs(view["pages"]["held"] - HELD_MIB * 256) <= moving and
            "held-pages" in [reason["code"] for reason in view["reasons"]])


class Row:
    """One VM with its disks, reading. `paths` says where each disk's image is."""

    def __init__(self, rig, run_dir, name, disks, paths, env=None):
        self.rig = rig
        self.disks = disks
        kind = dataclasses.replace(vm.guest("disks"), machine="pc")
        extra = []
        for number, (disk, path) in enumerate(zip(disks, paths)):
            extra += disk.arguments(number, path)
        self.guest = vm.Vm(kind, name, run_dir, memory_mib=MEMORY_MIB, balloon=None,
                           env={**rig.qemu_env, **(env or {})}, extra=extra)

    def __enter__(self):
        self.guest.start()
        try:
            self.guest.wait_ready(120)
            self.guest.sh("disk_reader read >/dev/ttyS0 2>&1 </dev/null &")
            self.guest.wait_serial(rf"READING disks={len(self.disks)}\b", 60)
        except BaseException:
            self.guest.stop()
            raise
        return self

    def __exit__(self, *_):
        self.guest.stop()

    def progress(self):
        """judged() of what the guest has said."""
        done = judged(self.guest.serial())
        if not self.guest.running():
            raise vm.VmError(f"QEMU ended: {self.guest.log()[-1000:]}")
        return done

    def folds(self):
        """Pages that have left: those that have come back, and those that are away. None: the
        daemon did not answer in time."""
        try:
            view = self.rig.vm(self.guest.name)
        except ramfold_rig.NoAnswer:
            return None
        except vm.VmError:
            return 0  # not attached yet
        return view["saved"]["folded_pages"] + sum(
            kind["count"] for kind in view["faults"] if kind["kind"] == "content")

    def folds_told(self):
        """folds(), in words."""
        folds = self.folds()
        return "the daemon does not tell how many folds" if folds is None else f"{folds} folds"

    def reasons(self):
        """The daemon's reasons, or that it does not tell them."""
        try:
            return self.rig.reasons(self.guest.name)
        except vm.VmError as problem:
            return f"no reasons: {problem}"

    def run(self, seconds, checks_min, folds_min, seconds_max):
        """Reads for so long, and until enough was done."""
        least = time.monotonic() + seconds
        left = Patience(seconds_max)
        folds = 0
        while True:
            done, now = self.progress(), self.folds()
            folds = folds if now is None else now
            enough = (len(done) == len(self.disks) and folds >= folds_min and
                      all(checks >= checks_min for checks, _ in done.values()))
            if enough and time.monotonic() > least:
                return
            if left.is_over():
                raise vm.VmError(f"too little happens: {folds} folds, {done}; {self.reasons()}")
            time.sleep(0.5)

    def finish(self):
        """Every buffer is verified once more; tells the figures."""
        self.guest.sh("killall -TERM disk_reader")
        left = Patience(120)
        while self.guest.serial().count("SECTORS-DONE") < len(self.disks):
            done = self.progress()
            if left.is_over():
                raise vm.VmError(f"not all buffers are verified: {done}")
            time.sleep(0.5)
        done = self.progress()
        for number, disk in enumerate(self.disks):
            checks, later = done[number]
            print(f"  {disk}: {checks} sectors verified, {later} of them later", flush=True)
        print(f"  {self.folds_told()}, 0 wrong", flush=True)


class Matrix:
    """The rows, on one rig."""

    def __init__(self, rig, storage):
        self.rig = rig
        self.storage = storage
        self.run_dir = storage.work
        self.begun = 0

    def row(self, disks, env=None, paths=None):
        self.begun += 1
        paths = paths or [self.storage.path(disk.storage, f"{number}.{disk.format}")
                          for number, disk in enumerate(disks)]
        return Row(self.rig, self.run_dir, f"row{self.begun}", disks, paths, env)

    def must_hold(self, name, disks, **how):
        print(f"{name}:", flush=True)
        with self.row(disks, **how) as row:
            row.run(ROW_S, CHECKS_MIN, FOLDS_MIN, ROW_S_MAX)
            row.finish()

    def must_lose(self):
        """A wrong sector is met, or this test could not have found one."""
        began = time.monotonic()
        with self.row(disk_rows.paired_rows()[0]) as row:
            left = Patience(LOSE_S_MAX)
            while not left.is_over():
                try:
                    row.progress()
                except Lost as wrong:
                    seconds = time.monotonic() - began
                    print(f"caught after {seconds:.0f} s, {row.folds_told()}:\n{wrong}",
                          flush=True)
                    return
                time.sleep(0.2)
            raise vm.VmError(f"no wrong sector, {row.folds_told()}: the test is too weak")

    def all(self, holder):
        versions = qemus()
        if len(versions) == 1:
            print("not run: a second QEMU: name one in RAMFOLD_QEMUS", flush=True)
        every = disk_rows.every_row() if LONG else disk_rows.paired_rows()
        for number, disks in enumerate(every):
            # Every QEMU has its turn, and each of them more than one row.
            version, vm.QEMU = list(versions.items())[number % len(versions)]
            self.must_hold(f"row {number + 1} of {len(every)}, {version}", disks)
        self.other_file_systems()
        self.passed_through()
        self.held(holder)

    def other_file_systems(self):
        if slow_storage.kernel_has("overlay"):
            self.must_hold("overlay over FUSE", disk_rows.row_on(disk_rows.OVERLAY))
        else:
            print("not run: overlay: this kernel has none", flush=True)
        for path in filter(None, os.environ.get("RAMFOLD_MATRIX_DIRS", "").split(":")):
            kind = slow_storage.run("stat", "--file-system", "--format=%T", path)
            self.must_hold(f"{path}, {kind}", disk_rows.row_on(path))
        for filesystem in ("nfs4", "cifs", "9p"):
            why = ("mount it and name a directory of it in RAMFOLD_MATRIX_DIRS"
                   if slow_storage.kernel_has(filesystem) else "this kernel has none")
            print(f"not run: {filesystem}: {why}", flush=True)

    def passed_through(self):
        image = self.storage.images / "0.raw"
        with slow_storage.scsi_debug(image, DISK_MIB) as devices:
            if devices is None:
                print("not run: scsi-block, scsi-generic: this kernel has no scsi_debug",
                      flush=True)
                return
            for model, device in zip(disk_rows.PASSED_THROUGH, devices):
                disk = disk_rows.Disk(model, "-", "raw", False, device)
                self.must_hold(model, [disk], paths=[device])

    def held(self, holder):
        """A part of RAM is registered as an io_uring buffer: it stays, the rest is folded."""
        env = {"LD_PRELOAD": f"{self.rig.agent}:{holder}", "HOLD_FROM_MIB": str(HELD_FROM_MIB),
               "HOLD_MIB": str(HELD_MIB)}
        print(f"registered buffer of {HELD_MIB} MiB:", flush=True)
        with self.row(disk_rows.row_on("fuse"), env) as row:
            self.rig.wait("the buffer is registered", lambda: "holder:" in row.guest.log(), 60)
            if f"holder: holds {HELD_MIB} MiB" not in row.guest.log():
                raise vm.VmError(row.guest.log())
            row.run(ROW_S, CHECKS_MIN, FOLDS_MIN, ROW_S_MAX)
            first, end = HELD_FROM_MIB << 20, (HELD_FROM_MIB + HELD_MIB) << 20
            with open(row.guest.ram_file(), "rb") as ram:
                hole = os.lseek(ram.fileno(), first, os.SEEK_HOLE)
            if hole < end:
                raise vm.VmError(f"a page of the registered buffer has left, at {hole:#x}")
            self.told_held(row)
            row.finish()

    def told_held(self, row):
        """The daemon tells the operator how many pages are held, and why they stay."""
        seen = {}

        def told():
            try:
                seen.update(self.rig.vm(row.guest.name))
            except ramfold_rig.NoAnswer:
                return False
            return tells_held(seen, len(row.disks))

        try:
            self.rig.wait("held pages are told", told, 60)
        except ramfold_rig.RigError as problem:
            raise vm.VmError(f"{problem}; pages {seen.get('pages')}, {row.reasons()}") from None
        print(f"  {seen['pages']['held']} pages are told as held", flush=True)


def test(run_dir, options):
    print(f"seed {SEED}", flush=True)
    images = run_dir / "images"
    make_images(vm.build_images("disks")[0] / "disk_reader", images)
    with slow_storage.Storage(options.slow_disk, images, SEED) as storage:
        rig = rig_of(options, run_dir, CONFIG)
        if options.must_lose:
            rig.daemon_binary = pathlib.Path(options.must_lose)
        with rig:
            matrix = Matrix(rig, storage)
            if options.must_lose:
                matrix.must_lose()
            else:
                matrix.all(options.holder)


def self_test_of_held():
    """Too few held pages, far too many, and a figure without its reason are found."""
    def of(held, *codes):
        return {"pages": {"held": held}, "reasons": [{"code": code} for code in codes]}

    for view, good in ((of(8192, "held-pages"), True), (of(7000, "policy", "held-pages"), True),
                       (of(9000, "held-pages"), True), (of(8192), False),
                       (of(0, "held-pages"), False), (of(4000, "held-pages"), False),
                       (of(20000, "held-pages"), False)):
        if tells_held(view, len(disk_rows.DEVICES)) != good:
            sys.exit(f"{view} is judged as {'bad' if good else 'good'}")


def self_test_of_qemus():
    """RAMFOLD_QEMUS adds QEMUs of other versions, and a path that is none is an error."""
    with tempfile.TemporaryDirectory() as directory:
        paths = [pathlib.Path(directory, name) for name in ("a", "b", "c")]
        for path, version in zip(paths, ("98.0.1", "99.0.2", "98.0.1")):
            path.write_text(f"#!/bin/sh\necho 'QEMU emulator version {version}'; echo more\n")
            path.chmod(0o755)
        os.environ["RAMFOLD_QEMUS"] = ":".join(map(str, paths))
        found = {version: path for version, path in qemus().items() if path.startswith(directory)}
        if found != {"QEMU emulator version 98.0.1": str(paths[0]),
                     "QEMU emulator version 99.0.2": str(paths[1])}:
            sys.exit(f"the QEMUs are {found}")
        os.environ["RAMFOLD_QEMUS"] = f"{directory}/none"
        try:
            qemus()
        except vm.VmError as problem:
            if "none does not run" not in str(problem):
                sys.exit(f"a path that is no QEMU: {problem}")
        else:
            sys.exit("a path that is no QEMU is no error")
    del os.environ["RAMFOLD_QEMUS"]


def self_test():
    """A wrong sector is a loss, also beside a failed request; a failed request alone is none."""
    fine = ("SECTORS disk=0 device=vda reads=9 checks=20 later=7 wrong=0 zeros=0\r\n"
            "SECTORS disk=1 device=sda reads=9 checks=30 later=8 wrong=0 zeros=0\r\n")
    wrong = "WRONG disk=0 device=vda page=3 later: want 05, got 00 ... 00\r\n"
    failed = "FAILED disk=1 device=sda read: Input/output error\r\n"
    if judged(fine) != {0: (20, 7), 1: (30, 8)}:
        sys.exit(f"the figures are {judged(fine)}")
    for said, kind, line in ((fine + wrong, Lost, wrong), (fine + failed, DiskFailed, failed),
                             (failed + wrong + fine, Lost, wrong)):
        try:
            done = judged(said)
        except vm.VmError as problem:
            if type(problem) is not kind or line.strip() not in str(problem):
                sys.exit(f"{said!r} is judged as {type(problem).__name__}: {problem}")
        else:
            sys.exit(f"{said!r} is judged as good: {done}")
    self_test_of_held()
    self_test_of_qemus()
    # Load that comes while a row waits lengthens its wait.
    left = Patience(0.05)
    patience.slower = lambda: 1000.0
    time.sleep(0.1)
    if left.is_over():
        sys.exit("seconds of a machine that is busy count as whole ones")
    patience.slower = lambda: 1.0
    time.sleep(0.1)
    if not left.is_over():
        sys.exit("a wait has no end")
    print("ok")


def main():
    if sys.argv[1:] == ["--self-test"]:
        return self_test()
    options = vm_tests.rig_parser(__doc__)
    options.add_argument("--slow-disk", required=True)
    options.add_argument("--holder", required=True)
    options.add_argument("--must-lose", metavar="DAEMON")
    chosen = options.parse_args()
    if os.geteuid() != 0:
        vm.skip("mounting and folding need root")
    slow_storage.enter_own_mounts()
    return vm_tests.run(test, chosen)


main()
