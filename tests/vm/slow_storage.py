# SPDX-License-Identifier: GPL-2.0-or-later
"""Storage whose reads stay in flight for a while, made for a test and gone with it.

Mounts are made in a mount namespace of the test's own, processes die with the test, and a loop
device goes when the last process closes it: nothing is left, however the test ends.
"""
import contextlib
import os
import pathlib
import shutil
import subprocess
import sys
import time

import disk_rows
import vm_tests  # noqa: F401  finds the scripts
import vm
from patience import deadline

DELAY_MS_MAX = 30
NAMESPACE = "RAMFOLD_TEST_MOUNTS"  # set in the environment: this process has its own


def enter_own_mounts():
    """Starts this program again in a mount namespace of its own, unless it has one."""
    if os.environ.get(NAMESPACE):
        return
    os.environ[NAMESPACE] = "own"
    os.execvp("unshare", ["unshare", "--mount", "--propagation", "private", "--",
                          sys.executable, *sys.argv])


def run(*command):
    if shutil.which(command[0]) is None:
        vm.skip(f"{command[0]} is not installed")
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True,
                          check=False)
    if done.returncode:
        raise vm.VmError(f"{command[0]}: {done.stderr.strip() or done.returncode}")
    return done.stdout.strip()


def kernel_has(filesystem):
    """Whether this kernel can mount it; loads its module where there is one."""
    subprocess.run(["modprobe", "-q", filesystem], check=False, stderr=subprocess.DEVNULL)
    names = pathlib.Path("/proc/filesystems").read_text(encoding="ascii").split()
    return filesystem in names


@contextlib.contextmanager
def scsi_debug(image, size_mib):
    """A SCSI disk in memory that holds this image and is slow: (block device, generic device).
    Nothing where this kernel has none."""
    slow = f"ndelay={DELAY_MS_MAX * 1_000_000}"
    if subprocess.run(["modprobe", "-q", "scsi_debug", f"dev_size_mb={size_mib}", slow, "random=1"],
                      check=False, stderr=subprocess.DEVNULL).returncode:
        yield None
        return
    try:
        run("udevadm", "settle")
        [unit] = pathlib.Path("/sys/bus/pseudo/drivers/scsi_debug").glob(
            "adapter*/host*/target*/*:*:*:*")
        block, generic = (f"/dev/{os.listdir(unit / kind)[0]}" for kind in ("block",
                                                                            "scsi_generic"))
        run("dd", f"if={image}", f"of={block}", "bs=1M", "oflag=direct")
        yield block, generic
    finally:
        run("modprobe", "--remove", "scsi_debug")


class Storage:
    """Images of disks in one directory, and the places where a VM opens them.

    binary   slow_disk of tests/vm/matrix
    images   the directory; files are added and never changed
    """

    def __init__(self, binary, images, seed):
        self.images = pathlib.Path(images)
        self.work = self.images.parent
        self._resources = contextlib.ExitStack()
        self._loops = {}
        self._overlay = None
        try:
            self.slow = self._mount_slow(binary, seed)
        except BaseException:
            self._resources.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._resources.close()

    def _mounted(self, point):
        # A server that was told to end has unmounted itself.
        self._resources.callback(subprocess.run, ["umount", "--lazy", str(point)], check=False,
                                 stderr=subprocess.DEVNULL)
        return point

    def _mount_slow(self, binary, seed):
        if not os.path.exists("/dev/fuse"):
            vm.skip("there is no /dev/fuse")
        point = self.work / "slow"
        point.mkdir(exist_ok=True)
        server = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "--", binary, point, self.images,
             str(DELAY_MS_MAX), str(seed)], stdin=subprocess.DEVNULL, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self._resources.callback(server.wait)
        self._resources.callback(server.kill)
        end = deadline(10)
        while not os.path.ismount(point):
            if server.poll() is not None:
                vm.skip(f"no FUSE here: {server.stdout.read().strip()}")
            if time.monotonic() > end:
                raise vm.VmError("the slow file system is not mounted after 10 s")
            time.sleep(0.02)
        return self._mounted(point)

    def path(self, storage, image):
        """Where a VM opens this image."""
        if storage == "fuse":
            return self.slow / image
        if storage == "loop":
            return self._loop(image)
        if storage == disk_rows.OVERLAY:
            return self._overlay_mount() / image
        directory = pathlib.Path(storage) / f"ramfold-matrix.{os.getpid()}"
        if not directory.exists():
            directory.mkdir()
            self._resources.callback(shutil.rmtree, directory, True)
        if not (directory / image).exists():
            shutil.copyfile(self.images / image, directory / image)
        return directory / image

    def _loop(self, image):
        if image not in self._loops:
            device = run("losetup", "--find", "--show", "--direct-io=on", self.slow / image)
            held = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
            self._resources.callback(os.close, held)
            run("losetup", "--detach", device)  # it goes with the last process that has it open
            self._loops[image] = device
        return self._loops[image]

    def _overlay_mount(self):
        if self._overlay is None:
            upper = self.work / "upper"
            point = self.work / "overlay"
            for directory in (upper, point):
                directory.mkdir(exist_ok=True)
            run("mount", "-t", "tmpfs", "tmpfs", upper)  # an overlay cannot be its upper layer
            self._mounted(upper)
            for name in ("new", "work"):
                (upper / name).mkdir()
            run("mount", "-t", "overlay", "overlay", "-o",
                f"lowerdir={self.slow},upperdir={upper}/new,workdir={upper}/work", point)
            self._overlay = self._mounted(point)
        return self._overlay
