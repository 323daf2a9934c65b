# SPDX-License-Identifier: Apache-2.0
"""
Four runs over a catalogue at once, in four processes, again and again on one output.

Each process is a run of its own, whose operator is called as soon as all four are there. Two wait for an output that
is busy, two fail. Before each race the catalogue changes. One of the four has to publish the change; the others find
nothing to do, or fail with ``OutputBusyError``. After each race the tables are compared with the catalogue and
with the emulator's log, and :mod:`tests.system.corpus.readers` reads the tables meanwhile.

``python -m tests.system.corpus.races [--s3] [--races 20] [--documents 100]``
"""

import argparse
import multiprocessing
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dev.airflow_stack import install_signal_handlers
from dev.demo import Emulator
from lucidworks_provider.corpus.tables import read_tables
from lucidworks_provider.errors import OutputBusyError
from tests.system.corpus.judge import Catalogue, ServiceLog, judge
from tests.system.corpus.kill import CHUNKING, PRELOADED, SERVICE, Store, attempt, store
from tests.system.corpus.readers import Readers

RUNNERS = 4
WON, NOTHING, BUSY = "published the change", "found nothing to do", "failed with OutputBusyError"


def contend(
    options: Mapping[str, Any],
    environment: Mapping[str, str],
    returned: Path,
    together: Any,
    told: Any,
) -> None:
    """In the process: one run, and what became of it."""
    together.wait(60)
    try:
        delta = attempt(environment, options, returned.stem, 1, returned)
    except OutputBusyError:
        told.put((BUSY, None))
    except BaseException as err:
        told.put((repr(err), None))
        raise
    else:
        told.put((WON if delta["version"] != delta["since"] else NOTHING, delta))


@dataclass
class Races:
    """
    What is played, and what has come of it.

    :param outcomes: of all runs.
    """

    root: Path
    emulator: Emulator
    place: Store
    documents: int
    seed: int
    say: Callable[[str], object] = print
    reading: Readers | None = None
    outcomes: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def play(self, races: int) -> None:
        """All races, one after the other."""
        catalogue = Catalogue(self.root / "source", random.Random(self.seed))
        processes = multiprocessing.get_context("forkserver")
        processes.set_forkserver_preload([*PRELOADED, *(["s3fs"] if self.place.environment else [])])
        environment = {
            "AIRFLOW_CONN_LUCIDWORKS_DEFAULT": self.emulator.connection(share_via="memory"),
            "AIRFLOW_HOME": str(self.root / "home"),
            **self.place.environment,
        }
        for race in range(1, races + 1):
            if race == 1:
                catalogue.fill(self.documents)
            else:
                catalogue.change()
            if self.reading is not None:
                self.reading.expect(catalogue.texts)
            began, version = time.monotonic(), read_tables(self.place.output).version
            together, told = processes.Barrier(RUNNERS), processes.Queue()
            runners = []
            for number in range(RUNNERS):
                options = CHUNKING | {
                    "source": str(self.root / "source"),
                    "output_uri": self.place.output,
                    "on_busy": "wait" if number % 2 else "fail",
                }
                returned = self.root / f"race-{race}-{number}.json"
                given = (options, environment, returned, together, told)
                runners.append(processes.Process(target=contend, args=given, daemon=True))
            for runner in runners:
                runner.start()
            ended = [told.get(timeout=300) for _ in runners]
            for runner in runners:
                runner.join(60)
            outcomes = Counter(outcome for outcome, _ in ended)
            self.outcomes += outcomes
            wrong = list(self._wrong(ended, version, catalogue))
            self.wrong += wrong
            words = ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items()))
            self.say(f"race {race}: {time.monotonic() - began:.1f} s, {words}")
            for fault in wrong:
                self.say(f"  WRONG {fault}")

    def _wrong(
        self, ended: list[tuple[str, dict[str, Any] | None]], version: int | None, catalogue: Catalogue
    ) -> Iterator[str]:
        outcomes = Counter(outcome for outcome, _ in ended)
        if outcomes[WON] != 1 or outcomes.keys() - {WON, NOTHING, BUSY}:
            yield f"the runs: {dict(outcomes)}"
        for outcome, delta in ended:
            if outcome == NOTHING and delta is not None and (delta["submitted"] or delta["written"]):
                yield f"it found nothing to do and returned {delta}"
        if (found := read_tables(self.place.output).version) != (0 if version is None else version + 1):
            yield f"version {found} of the chunks after {version}"
        verdict = judge(catalogue, self.place.output, ServiceLog.of(self.emulator.get("log")), [])
        yield from verdict.wrong
        if verdict.twice:
            yield f"{verdict.twice} documents were submitted twice"


def main() -> int:
    """Play, print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--s3", action="store_true", help="the tables in a bucket of moto's server")
    parser.add_argument("--races", type=int, default=20)
    parser.add_argument("--documents", type=int, default=100)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    options = parser.parse_args()
    began = time.monotonic()
    with install_signal_handlers(), ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="corpus-races-")))
        # The runs share no token here, as they do in Airflow.
        emulator = stack.enter_context(Emulator(root / "emulator.log", *SERVICE, "--both-tokens-live"))
        place = stack.enter_context(store(root, s3=options.s3))
        reading = Readers(place.output, root / "states.jsonl", place.environment, place.delta_rs)
        races = Races(
            root,
            emulator,
            place,
            options.documents,
            options.seed,
            say=lambda text: print(text, flush=True),
            reading=reading,
        )
        races.play(options.races)
        reads, faults = reading.stop()
    for fault in faults:
        print(f"  READ WRONG {fault}")
    print(
        f"\n{options.races} races of {RUNNERS} runs, {time.monotonic() - began:.0f} s; seed {options.seed}\n\n"
        f"| what | runs |\n| --- | --- |\n"
        + "".join(f"| {outcome} | {count} |\n" for outcome, count in sorted(races.outcomes.items()))
        + f"\n{len(races.wrong)} faults; {reads:,} reads meanwhile, {len(faults)} of them of no published state."
    )
    return 1 if races.wrong or faults else 0


if __name__ == "__main__":
    sys.exit(main())
