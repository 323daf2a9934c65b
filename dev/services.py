# SPDX-License-Identifier: Apache-2.0
"""
Temporary PostgreSQL and Redis servers on free ports of the loopback interface::

    with RedisServer(folder, password="secret") as redis:
        connect(redis.url)
        redis.pause()  # connections are accepted and get no response
        redis.resume()
        redis.kill()  # connections are refused
        redis.start()  # on the same port, with its data

They end with the program that started them, see :mod:`dev.processes`.
"""

from __future__ import annotations

import json
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Self
from urllib.parse import quote

import psutil

from dev.packages import install_services, postgres_binary, redis_binary
from dev.processes import ManagedProcess, ProcessGroup, clean_environment, free_ports

__all__ = ["PostgresServer", "RedisServer", "install_services"]

HOST = "127.0.0.1"
SUPERUSER = "airflow"


class _Server:
    """
    A process that can be stopped, killed, paused and restarted.

    :param folder: for the log and, if possible, the data.
    :param group: in which it ends.
    """

    name: str
    ready: str
    stop_signal = signal.SIGTERM

    def __init__(self, folder: Path, *, group: ProcessGroup | None = None) -> None:
        self.folder = folder.resolve()
        self.port = free_ports(1)[0]
        self._own_group = group is None
        self._group = group or ProcessGroup()
        self._process: ManagedProcess | None = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def alive(self) -> bool:
        """Whether it runs, paused or not."""
        return self._process is not None and self._process.alive

    @property
    def pid(self) -> int | None:
        """The server's main process."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start it with its port and data, and wait until it accepts connections."""
        if self.alive:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        self._process = ManagedProcess(
            self._command(),
            clean_environment(),
            self.folder / f"{self.name}.log",
            self._cwd(),
            name=self.name,
            group=self._group,
        )
        self._process.start()
        self._process.wait_for(self.ready, 60)

    def stop(self, grace: float = 10.0) -> None:
        """End it cleanly; its data is stored."""
        self.resume()
        if self._process is not None:
            self._process.terminate(self.stop_signal, grace)

    def kill(self) -> None:
        """End it with SIGKILL."""
        if self._process is not None:
            self._process.kill()

    def restart(self) -> None:
        self.stop()
        self.start()

    def pause(self) -> None:
        """Suspend it: the kernel accepts connections, and there are no responses."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def processes(self) -> list[psutil.Process]:
        return self._group.processes(self.name)

    def close(self) -> None:
        """End it; idempotent."""
        self.kill()
        if self._own_group:
            self._group.close()

    def _signal(self, sig: signal.Signals) -> None:
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):
                process.send_signal(sig)

    def _cwd(self) -> Path:
        return self.folder

    def _command(self) -> list[str]:
        raise NotImplementedError


class RedisServer(_Server):
    """
    A Redis server, whose data outlives :meth:`kill` and :meth:`stop`.

    :param password: of clients (``requirepass``).
    """

    name = "redis"
    ready = "Ready to accept connections"

    def __init__(
        self, folder: Path, *, password: str | None = None, group: ProcessGroup | None = None
    ) -> None:
        super().__init__(folder, group=group)
        self.password = password

    @property
    def url(self) -> str:
        """The URL of database 0, with the password."""
        login = f":{quote(self.password, safe='')}@" if self.password else ""
        return f"redis://{login}{HOST}:{self.port}/0"

    def _command(self) -> list[str]:
        binary = redis_binary()
        if binary is None:
            raise RuntimeError("no redis-server; Debian's package is called redis-server")
        settings = {
            "bind": HOST,
            "port": self.port,
            "dir": self.folder,
            "daemonize": "no",
            # The title would overwrite the environment, and so the mark of the group.
            "set-proc-title": "no",
            "save": '""',
            # Written but not synced: outlives SIGKILL, and needs no fork.
            "appendonly": "yes",
            "appendfsync": "no",
            "auto-aof-rewrite-percentage": 0,
        }
        if self.password:
            settings["requirepass"] = self.password
        # A file, because all users can read the command line.
        file = self.folder / "redis.conf"
        file.touch(mode=0o600)
        file.write_text("".join(f"{key} {_quoted(value)}\n" for key, value in settings.items()))
        return [str(binary), str(file)]


class PostgresServer(_Server):
    """
    A PostgreSQL server with one superuser and one database, both called ``airflow``.

    PostgreSQL refuses to run as root; then it runs as ``postgres`` or ``nobody``, with its data below ``TMPDIR``,
    because that user cannot read the folders of root. The data is removed at the end.

    :param programs: the folder ``bin`` of an installation; by default Debian's newest.
    """

    name = "postgres"
    ready = "database system is ready to accept connections"
    stop_signal = signal.SIGINT  # "fast": disconnects clients

    def __init__(
        self, folder: Path, *, programs: Path | None = None, group: ProcessGroup | None = None
    ) -> None:
        super().__init__(folder, group=group)
        self.programs = programs
        self.password = secrets.token_urlsafe(16)
        self._base: Path | None = None

    @property
    def url(self) -> str:
        """The URL for SQLAlchemy with psycopg2."""
        return f"postgresql+psycopg2://{SUPERUSER}:{self.password}@{HOST}:{self.port}/{SUPERUSER}"

    @property
    def connection(self) -> str:
        """An Airflow connection, for ``AIRFLOW_CONN_POSTGRES_DEFAULT``."""
        login = {"login": SUPERUSER, "password": self.password, "schema": SUPERUSER}
        return json.dumps({"conn_type": "postgres", "host": HOST, "port": self.port, **login})

    @property
    def settings(self) -> dict[str, str]:
        """The ``env`` of an :class:`~dev.airflow_stack.AirflowStack` with this database."""
        return {"AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": self.url}

    def close(self) -> None:
        """End it, and remove its data."""
        if self._process is not None and self.alive:
            self.resume()
            # "immediate": without a checkpoint, but the shared memory is released.
            self._process.terminate(signal.SIGQUIT, 3)
        super().close()
        if self._base is not None:
            shutil.rmtree(self._base, ignore_errors=True)
            self._base = None

    def _command(self) -> list[str]:
        if self._base is None:
            self._base = self._initialise()
        settings = {
            "port": self.port,
            "listen_addresses": HOST,
            "unix_socket_directories": "",
            "max_connections": 300,
            # The data need not survive a crash of the machine.
            "fsync": "off",
            "synchronous_commit": "off",
            "full_page_writes": "off",
            "shared_buffers": "128MB",
            # In the data folder: in /dev/shm it would outlive SIGKILL.
            "dynamic_shared_memory_type": "mmap",
            "logging_collector": "off",
        }
        command = [*self._as_owner(), str(self._program("postgres")), "-D", str(self._base / "data")]
        for key, value in settings.items():
            command += ["-c", f"{key}={value}"]
        return command

    def _initialise(self) -> Path:
        """Create an empty cluster; its folder."""
        below = None if self._owner() else self.folder
        base = Path(tempfile.mkdtemp(prefix="postgres-", dir=below))
        self._group.remove_at_end(base)
        password = base / "password"
        try:
            password.touch(mode=0o600)
            password.write_text(self.password)
            if owner := self._owner():
                for path in (base, password):
                    os.chown(path, owner.pw_uid, owner.pw_gid)
            options = [f"--username={SUPERUSER}", f"--pwfile={password}", "--auth=scram-sha-256", "--no-sync"]
            # C: the same order of strings on every machine.
            options += ["--locale=C", "--encoding=UTF8", "--pgdata", str(base / "data")]
            self._run([str(self._program("initdb")), *options], base)
            single = [str(self._program("postgres")), "--single", "-D", str(base / "data"), "postgres"]
            self._run(single, base, f"CREATE DATABASE {SUPERUSER}\n")
        except BaseException:
            shutil.rmtree(base, ignore_errors=True)
            raise
        finally:
            password.unlink(missing_ok=True)
        return base

    def _run(self, command: list[str], cwd: Path, stdin: str = "") -> None:
        done = subprocess.run(
            [*self._as_owner(), *command],
            env=clean_environment(),
            cwd=cwd,
            input=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(f"{command[0]} failed ({done.returncode}):\n{done.stdout}")

    def _cwd(self) -> Path:
        return self._base or self.folder

    @staticmethod
    def _owner() -> pwd.struct_passwd | None:
        if os.geteuid() != 0:
            return None
        try:
            return pwd.getpwnam("postgres")
        except KeyError:  # not Debian's package
            return pwd.getpwnam("nobody")

    def _as_owner(self) -> list[str]:
        # Replaces itself by the program, while su and runuser may remain as its parent and drop signals.
        if (owner := self._owner()) is None:
            return []
        return ["setpriv", f"--reuid={owner.pw_uid}", f"--regid={owner.pw_gid}", "--init-groups", "--"]

    def _program(self, name: str) -> Path:
        binary = self.programs / name if self.programs else postgres_binary(name)
        if binary is None:
            raise RuntimeError(f"no {name} of PostgreSQL; Debian's package is called postgresql")
        return binary


def _quoted(value: object) -> str:
    text = str(value)
    return text if text == '""' else '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
