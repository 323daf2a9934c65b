# SPDX-License-Identifier: Apache-2.0
"""Throw-away PostgreSQL and Redis on free ports of the loopback interface, for the fleet and for tests.

::

    with RedisServer(folder, password="secret") as redis:
        connect(redis.url)
        redis.pause()  # connections are accepted and get no response, as from a hanging machine
        redis.resume()
        redis.kill()  # connections are refused
        redis.start()  # on the same port, with what it knew

Neither outlives the program that started it: see :mod:`dev.processes`.
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
    """What both have in common: one process that can be stopped, killed, paused and started again.

    :param folder: for the log and, if possible, the data
    :param group: end it together with others
    """

    name: str
    ready: str
    stop_signal = signal.SIGTERM

    def __init__(self, folder: Path, *, port: int | None = None, group: ProcessGroup | None = None) -> None:
        self.folder = folder.resolve()
        self.port = port or free_ports(1)[0]
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
        """Whether it runs; a paused one does."""
        return self._process is not None and self._process.alive

    @property
    def pid(self) -> int | None:
        """Of the server's first process."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start it, or start it again on its port and its data, and wait until it takes connections."""
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
        """End it in good order; what it knows is on the disk."""
        self.resume()
        if self._process is not None:
            self._process.terminate(self.stop_signal, grace)

    def kill(self) -> None:
        """``kill -9``: the port refuses connections at once."""
        if self._process is not None:
            self._process.kill()

    def restart(self) -> None:
        """Stop and start, on the same port."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Let it hang: it takes connections (the kernel does that) and sends nothing."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """End the pause."""
        self._signal(signal.SIGCONT)

    def processes(self) -> list[psutil.Process]:
        """The server and its children."""
        return self._group.processes(self.name)

    def close(self) -> None:
        """End it for good. Can be called again."""
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
    """A Redis server.

    :param password: clients must know it (``requirepass``)
    :param durable: keep the data through :meth:`kill`, :meth:`stop` and :meth:`start`, as a broker in
        production does; otherwise every start begins empty
    """

    name = "redis"
    ready = "Ready to accept connections"

    def __init__(
        self,
        folder: Path,
        *,
        password: str | None = None,
        durable: bool = True,
        port: int | None = None,
        group: ProcessGroup | None = None,
    ) -> None:
        super().__init__(folder, port=port, group=group)
        self.password, self.durable = password, durable

    @property
    def url(self) -> str:
        """With the password; database 0."""
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
            # The title would be written over the environment, and so over the mark of the group.
            "set-proc-title": "no",
            "save": '""',
            # Written to the kernel at once but never synced: outlives a kill -9, and needs no fork.
            "appendonly": "yes" if self.durable else "no",
            "appendfsync": "no",
            "auto-aof-rewrite-percentage": 0,
        }
        if self.password:
            settings["requirepass"] = self.password
        # A file, because the command line is for everybody to see.
        file = self.folder / "redis.conf"
        file.touch(mode=0o600)
        file.write_text("".join(f"{key} {_quoted(value)}\n" for key, value in settings.items()))
        return [str(binary), str(file)]


class PostgresServer(_Server):
    """A PostgreSQL server with one superuser and one database, both called ``airflow``.

    PostgreSQL refuses to run as root; then it runs as ``postgres`` (or ``nobody``), and its data lie in a folder
    below ``TMPDIR`` because that user cannot reach those of root. They are removed at the end, however it comes.

    :param programs: the folder ``bin`` of an installation that this user can read; by default Debian's newest one
    """

    name = "postgres"
    ready = "database system is ready to accept connections"
    stop_signal = signal.SIGINT  # "fast": without waiting for the clients to leave

    def __init__(
        self,
        folder: Path,
        *,
        max_connections: int = 300,
        programs: Path | None = None,
        port: int | None = None,
        group: ProcessGroup | None = None,
    ) -> None:
        super().__init__(folder, port=port, group=group)
        self.max_connections = max_connections
        self.programs = programs
        self.password = secrets.token_urlsafe(16)
        self._base: Path | None = None

    @property
    def url(self) -> str:
        """For psycopg2, through SQLAlchemy."""
        return f"postgresql+psycopg2://{SUPERUSER}:{self.password}@{HOST}:{self.port}/{SUPERUSER}"

    @property
    def connection(self) -> str:
        """A connection of Airflow to it, for ``AIRFLOW_CONN_POSTGRES_DEFAULT``."""
        login = {"login": SUPERUSER, "password": self.password, "schema": SUPERUSER}
        return json.dumps({"conn_type": "postgres", "host": HOST, "port": self.port, **login})

    @property
    def settings(self) -> dict[str, str]:
        """What puts an :class:`~dev.airflow_stack.AirflowStack` on this database, for its ``env``."""
        return {"AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": self.url}

    @property
    def result_backend(self) -> str:
        """For Celery."""
        return f"db+{self.url}"

    def close(self) -> None:
        """End it for good and remove its data."""
        if self._process is not None and self.alive:
            self.resume()
            # "immediate": without a checkpoint, but the shared memory is given back.
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
            "max_connections": self.max_connections,
            # Nothing here needs to outlive the machine.
            "fsync": "off",
            "synchronous_commit": "off",
            "full_page_writes": "off",
            "shared_buffers": "128MB",
            # In the data folder: in /dev/shm it would outlive a kill -9.
            "dynamic_shared_memory_type": "mmap",
            "logging_collector": "off",
        }
        command = [*self._as_owner(), str(self._program("postgres")), "-D", str(self._base / "data")]
        for key, value in settings.items():
            command += ["-c", f"{key}={value}"]
        return command

    def _initialise(self) -> Path:
        """Make an empty cluster and return the folder it is in."""
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
            # C: no collation of the machine, the same order of strings everywhere.
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
        except KeyError:  # Debian's package makes it
            return pwd.getpwnam("nobody")

    def _as_owner(self) -> list[str]:
        # Becomes the program, where su and runuser may stay as its parent and swallow signals.
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
