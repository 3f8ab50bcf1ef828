"""Where a spool can be: locks and O_APPEND hold only on a filesystem of this machine."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

from .errors import ConfigurationError
from .segments import make_folder

MOUNTS = Path("/proc/self/mountinfo")  # proc(5); other systems than Linux have none
NETWORK = re.compile(
    r"nfs\d?|cifs|smb\d|smbfs|9p|afs|ceph|glusterfs|lustre|fuse\.(sshfs|gluster.*)"
)


def prepare_folder(folder: Path) -> None:
    """Make the spool's folder, and try what recording needs; raises :exc:`OSError`."""
    make_folder(folder)
    refuse_network(folder)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))


def refuse_network(folder: Path) -> None:
    """Raise :exc:`ConfigurationError` where ``folder`` is known to be another machine's."""
    kind = _filesystem(folder.resolve())
    if NETWORK.fullmatch(kind):
        raise ConfigurationError(
            f"{folder} is on a network filesystem ({kind}), where locks cannot be trusted; choose "
            f"a database on a disk of this machine"
        )


def _filesystem(folder: Path) -> str:
    """Return the type of the mount that ``folder`` is in; empty where that cannot be told."""
    try:
        lines = MOUNTS.read_text().splitlines()
    except OSError:
        return ""
    mounts = {}  # a later mount covers an earlier one of the same place
    for line in lines:
        before, _, after = line.partition(" - ")
        mounts[_unescaped(before.split(" ")[4])] = after.split(" ")[0]
    inside = [place for place in mounts if folder.is_relative_to(place)]
    return mounts[max(inside, key=len)] if inside else ""


def _unescaped(place: str) -> str:
    return re.sub(r"\\(\d{3})", lambda match: chr(int(match[1], 8)), place)
