# SPDX-License-Identifier: Apache-2.0
"""Everything that ``tests.system.chaos`` runs on, and the handles by which it is broken."""

import random
import secrets
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dev import private_mounts
from dev.airflow_stack import AirflowStack
from dev.demo import Emulator
from dev.name_server import NameServer
from dev.packages import install_services
from dev.services import PostgresServer
from dev.tls_door import TlsDoor
from dev.wrong_clock import WrongClock
from tests.system.chaos.judge import SUBMISSIONS, Toll, Work
from tests.system.corpus.judge import WORDS, Catalogue

DAG = "chaos"
ONCE = "chaos_once"  # the same without retries, and with little patience
BATCH = 4  # that of chaos_dags
SECOND = "triggerer-2"
PENDING = 3.0  # seconds that a job takes
HOST = "lucidworks.test"
# Of the disk that results are written to.
DISK_MEBIBYTES = 64


@dataclass
class Stage:
    """
    Everything that runs, and the seed of what is random.

    :param names: knows the service's host; None where the machine's mounts cannot be left.
    :ivar toll: what the fault of this round may cost.
    """

    root: Path
    airflow: AirflowStack
    emulator: Emulator
    postgres: PostgresServer
    door: TlsDoor
    names: NameServer | None
    clock: WrongClock
    rng: random.Random
    documents: int
    toll: Toll = field(default_factory=Toll)

    @property
    def results(self) -> Path:
        """Where every run writes; a disk of its own, if ``names``."""
        return self.root / "rounds"

    # -- what scenarios are made of ------------------------------------------------------------------

    def order(self, kind: str, match: str = "any", times: int = 1_000_000, **more: Any) -> None:
        """Let calls go wrong."""
        self.emulator.post("faults", kind=kind, match=match, times=times, **more)

    def cancel(self) -> None:
        """Let all calls go right again."""
        self.emulator.delete("faults")

    def for_a_while(self, kind: str, seconds: float, match: str = "any", **more: Any) -> None:
        """A fault that begins and ends."""
        self.order(kind, match, **more)
        time.sleep(seconds)
        self.cancel()

    def set_pending(self, seconds: float) -> None:
        """Jobs take so long from now on."""
        self.emulator.set(pending_seconds=seconds)

    def kill_task(self, task_id: str, run_id: str) -> None:
        """``kill -9`` its process, if it has one."""
        for task in self.airflow.task_instances(DAG, run_id):
            if task["task_id"] == task_id and task["state"] == "running":
                self.airflow.kill_task(DAG, run_id, task_id)
                self.toll.kills.append(time.time())

    def kill(self, part: str, down: float = 3.0) -> None:
        """``kill -9`` a part with all its children, and start it again."""
        self.airflow.kill_part(part)
        self.toll.kills.append(time.time())
        time.sleep(down)
        self.airflow.start_part(part, wait=part != SECOND)

    def restart(self, name: str, **env: str) -> None:
        """Restart it with additional environment variables; no work is in flight."""
        self.airflow.kill_part(name)
        self.airflow.start_part(name, env=env, wait=name != SECOND)

    def restart_triggerers(self, names: Sequence[str] = ("triggerer", SECOND), **env: str) -> None:
        """Only these run then."""
        for name in ("triggerer", SECOND):
            self.airflow.kill_part(name)
        for name in names:
            self.restart(name, **env)

    def cut(self) -> None:
        """Reset all connections to the service."""
        self.toll.cut += self.door.cut()

    def log(self) -> list[dict[str, Any]]:
        """What the emulator was asked in this round."""
        lines: list[dict[str, Any]] = self.emulator.get("log")
        return lines

    def forget(self) -> None:
        """A new round begins."""
        self.emulator.delete("log")
        self.toll = Toll()

    def submitted(self) -> int:
        """Jobs of this round."""
        return sum(line["endpoint"] in SUBMISSIONS and bool(line["job_id"]) for line in self.log())

    def broken(self) -> int:
        """Failed name lookups and TLS handshakes since the start."""
        return self.door.refused + (self.names.failed if self.names else 0)


def work_for(stage: Stage, name: str = "") -> Work:
    """Texts that no other round has."""
    name = name or secrets.token_hex(4)
    folder = stage.results / name
    catalogue = Catalogue(folder / "source", random.Random(stage.rng.random()))
    catalogue.fill(stage.documents)
    for path in catalogue.texts:
        catalogue.texts[path] = f"{name}: {catalogue.texts[path]}"
        (catalogue.folder / path).write_text(catalogue.texts[path])

    def text(number: int) -> str:
        words = " ".join(stage.rng.choices(WORDS, k=40))
        return f"{name}-{number} is the first. {words[:100]}. {words[100:]}."

    documents = {f"document-{number}": text(number) for number in range(stage.documents // 3)}
    return Work(folder, catalogue, documents, [text(number + 1000) for number in range(stage.documents // 2)])


@contextmanager
def staged(
    root: Path, seed: int, documents: int, clients: Sequence[str] = (), *, private: bool = False
) -> Iterator[Stage]:
    """
    Start everything.

    :param clients: client ids that the emulator knows besides that of the connection; their secret is the same.
    :param private: this program has mounts of its own (:func:`dev.private_mounts.enter`).
    """
    install_services()
    (root / "dags").mkdir(parents=True)
    shutil.copy(Path(__file__).with_name("dags.py"), root / "dags" / "chaos_dags.py")
    with ExitStack() as stack:
        names = None
        if private:
            names = stack.enter_context(NameServer(HOST))
            (root / "resolv.conf").write_text(names.resolver)
            private_mounts.mount_file(root / "resolv.conf", resolver := Path("/etc/resolv.conf"))
            stack.callback(private_mounts.unmount, resolver)
            private_mounts.mount_memory(root / "rounds", DISK_MEBIBYTES)
            stack.callback(private_mounts.unmount, root / "rounds")
        postgres = stack.enter_context(PostgresServer(root / "postgres"))
        known = [f"--client={name}:demo-secret" for name in ("demo-client", *clients)]
        options = ("--pending-seconds", str(PENDING), "--token-ttl", "120", *known)
        emulator = stack.enter_context(Emulator(root / "emulator.log", *options))
        host = HOST if private else "localhost"
        door = stack.enter_context(TlsDoor(host, int(emulator.url.rpartition(":")[2]), root / "tls"))
        through = dict.fromkeys(("auth_url", "application_url", "models_url"), f"https://{host}:{door.port}")
        environment = postgres.settings | {
            "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
            "AIRFLOW_CONN_LUCIDWORKS_DEFAULT": emulator.connection(
                timeout="10", ca_bundle=str(door.bundle), **through
            ),
        }
        airflow = AirflowStack(root / "home", root / "dags", env=environment, parallelism=6)
        airflow.commands[SECOND] = airflow.commands["triggerer"]
        started = [name for name in airflow.commands if name != SECOND]
        second = airflow.commands.pop(SECOND)
        stack.enter_context(airflow)
        airflow.commands[SECOND] = second
        airflow.start_part(SECOND, wait=False)
        for dag in (DAG, ONCE):
            airflow.wait_for_dag(dag, 120)
        print(f"started: {', '.join([*started, SECOND])}", flush=True)
        yield Stage(
            root,
            airflow,
            emulator,
            postgres,
            door,
            names,
            WrongClock(root / "clock"),
            random.Random(seed),
            documents,
        )
