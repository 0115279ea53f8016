# SPDX-License-Identifier: GPL-2.0-or-later
"""What the gate's matrix is made of: disks of a VM, in rows that cover the pairs of their settings.

A row is one VM with a disk of each device model. The whole matrix has every combination; the short
one has as few rows as are needed to have every pair of settings (device and engine, engine and
format, ...) at least once.
"""
import dataclasses
import itertools

DEVICES = ("virtio-blk", "virtio-scsi", "nvme", "ide")
ENGINES = ("threads", "native", "io_uring")
FORMATS = ("raw", "qcow2")
STORAGES = ("fuse", "loop")  # a slow file itself, and a loop device over it
OVERLAY = "overlay"  # over a slow file, which is copied up when it is opened for writing
WITH_IOTHREAD = ("virtio-blk", "virtio-scsi")
PASSED_THROUGH = ("scsi-block", "scsi-generic")  # the guest's SCSI commands go to a real disk


@dataclasses.dataclass(frozen=True)
class Disk:
    """A disk as QEMU gets it. `storage` is one of STORAGES or of slow_storage.Storage's others."""
    device: str
    engine: str
    format: str
    iothread: bool
    storage: str

    def __str__(self):
        return (f"{self.device}, aio={self.engine}, {self.format}, {self.storage}"
                f"{', iothread' if self.iothread else ''}")

    def pairs(self):
        """Pairs of settings that this disk has."""
        named = dataclasses.asdict(self).items()
        return {frozenset(pair) for pair in itertools.combinations(named, 2)}

    def arguments(self, number, path):
        """QEMU's arguments for it as the VM's disk `number`, whose image is at `path`."""
        name = f"d{number}"
        only_read = ",read-only=on" if self.storage == OVERLAY else ""
        if self.device in PASSED_THROUGH:
            return ["-blockdev", f"driver=host_device,node-name={name},filename={path}",
                    "-device", f"virtio-scsi-pci,id={name}-bus",
                    "-device", f"{self.device},bus={name}-bus.0,drive={name}"]
        driver = "host_device" if self.storage == "loop" else "file"
        file = (f"driver={driver},node-name={name}-file,filename={path},aio={self.engine},"
                f"cache.direct=on{only_read}")
        line = ["-blockdev", file, "-blockdev",
                f"driver={self.format},node-name={name},file={name}-file{only_read}"]
        thread = ""
        if self.iothread:
            line += ["-object", f"iothread,id={name}-thread"]
            thread = f",iothread={name}-thread"
        if self.device == "virtio-blk":
            return line + ["-device", f"virtio-blk-pci,drive={name}{thread}"]
        if self.device == "virtio-scsi":
            return line + ["-device", f"virtio-scsi-pci,id={name}-bus{thread}",
                           "-device", f"scsi-hd,bus={name}-bus.0,drive={name}"]
        if self.device == "nvme":
            return line + ["-device", f"nvme,serial={name},drive={name}"]
        return line + ["-device", f"ide-hd,bus=ide.0,drive={name}"]


def every_disk(device):
    threads = (False, True) if device in WITH_IOTHREAD else (False,)
    return [Disk(device, *settings)
            for settings in itertools.product(ENGINES, FORMATS, threads, STORAGES)]


def every_row():
    """Rows that have every disk at least once."""
    disks = [every_disk(device) for device in DEVICES]
    # Shifted against each other, so that a row does not have four disks with the same settings.
    return [[some[(i + shift) % len(some)] for shift, some in enumerate(disks)]
            for i in range(max(map(len, disks)))]


def paired_rows():
    """Few rows that have every pair of settings."""
    left = set().union(*(disk.pairs() for device in DEVICES for disk in every_disk(device)))
    rows = []
    while left:
        row = []
        for device in DEVICES:
            best = max(every_disk(device), key=lambda disk: len(disk.pairs() & left))
            left -= best.pairs()
            row.append(best)
        rows.append(row)
    return rows


def row_on(storage):
    """A row of raw disks on another storage, with an engine for each."""
    engines = itertools.cycle(ENGINES)
    return [Disk(device, next(engines), "raw", device in WITH_IOTHREAD, storage)
            for device in DEVICES if storage != OVERLAY or device != "ide"]  # which has to write
