# SPDX-License-Identifier: GPL-2.0-or-later
"""What /proc tells of sockets."""

ACCEPTS = 0x10000  # SO_ACCEPTCON in the flags of /proc/net/unix


def listening(path) -> bool:
    """Whether somebody serves the socket at `path`. Its file is there a moment earlier: between
    bind(2) and listen(2) the kernel refuses a connection."""
    with open("/proc/net/unix", encoding="utf-8") as sockets:
        rows = [line.split(maxsplit=7) for line in sockets]
    return any(len(row) == 8 and row[7].strip() == str(path) and int(row[3], 16) & ACCEPTS
               for row in rows[1:])
