# SPDX-License-Identifier: Apache-2.0
"""
Mounts of this program and its children only: small disks, other disks, another ``resolv.conf``.

Root and Linux are needed; without them, :func:`enter` returns False.
"""

from __future__ import annotations

import ctypes
import subprocess
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_CLONE_NEWNS = 0x20000


def enter() -> bool:
    """
    Copy the machine's mounts for this process and its children; False if that is not permitted.

    :raises RuntimeError: there are other threads, which would keep the machine's mounts.
    """
    if threading.active_count() > 1:
        raise RuntimeError("other threads are running")
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(_CLONE_NEWNS) != 0:
            return False
    except (OSError, AttributeError):
        return False
    # Otherwise mounts would also appear outside.
    return _run("mount", "--make-rprivate", "/")


def mount_memory(folder: Path, mebibytes: int) -> None:
    """Mount a disk in memory."""
    folder.mkdir(parents=True, exist_ok=True)
    if not _run("mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "tmpfs", str(folder)):
        raise RuntimeError(f"{folder}: cannot mount a disk")


def mount_file(file: Path, place: Path) -> None:
    """Mount a file over another."""
    if not _run("mount", "--bind", str(file), str(place)):
        raise RuntimeError(f"{place}: cannot mount {file}")


def unmount(place: Path) -> None:
    """Undo a mount; open files remain usable."""
    _run("umount", "--lazy", str(place))


def without(folder: Path) -> tuple[str, ...]:
    """The prefix of a command whose mounts have an empty disk at a folder."""
    return (
        *("unshare", "--mount", "sh", "-c"),
        'mount -t tmpfs -o size=8m tmpfs "$0" && exec "$@"',
        str(folder),
    )


def _run(*command: str) -> bool:
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False
