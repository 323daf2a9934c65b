# SPDX-License-Identifier: Apache-2.0
"""
Mounts that only this program and its children see, and that go with the last of them.

With them a part can have a small disk, a disk of its own, or a name server of its own, and the machine does not
notice. They need root and Linux; where they cannot be had, :func:`enter` says so.
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
    Leave the machine's mounts for a copy of them; False where that is not allowed.

    For the main thread, before there are others: only what it starts from now on follows it.
    """
    if threading.active_count() > 1:
        raise RuntimeError("threads that run already would stay outside")
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(_CLONE_NEWNS) != 0:
            return False
    except (OSError, AttributeError):
        return False
    # Else what is mounted here would be mounted outside as well.
    return _run("mount", "--make-rprivate", "/")


def mount_memory(folder: Path, mebibytes: int) -> None:
    """Put a small disk in memory on a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    if not _run("mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "tmpfs", str(folder)):
        raise RuntimeError(f"{folder}: no disk can be mounted there")


def mount_file(file: Path, place: Path) -> None:
    """Let one file be seen in the place of another."""
    if not _run("mount", "--bind", str(file), str(place)):
        raise RuntimeError(f"{place}: {file} cannot be mounted there")


def unmount(place: Path) -> None:
    """What lay there before is seen again; open files stay usable."""
    _run("umount", "--lazy", str(place))


def without(folder: Path) -> tuple[str, ...]:
    """The begin of a command that sees an empty disk in the place of a folder."""
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
