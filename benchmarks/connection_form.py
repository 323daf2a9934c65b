# SPDX-License-Identifier: Apache-2.0
"""
What this package adds to the time in which Airflow's form for a new connection is there.

API servers of one Airflow side by side: one in an environment with this package, one without it, and another one
without it, whose difference from the second is the noise of the machine. The environments hold links to all that
is installed here, except that two of them have none to this package's metadata, so Airflow sees no entry point.

Each round starts all servers anew, and asks them in turn: the first look at the connection types (``hook_meta``, of
which the form is made), later ones, and in Chromium a click on "Add Connection" until the types can be chosen from.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import sysconfig
import tempfile
import time
import venv
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import requests

from benchmarks.harness import spread
from dev.airflow_stack import AirflowStack, install_signal_handlers
from dev.browser import browser

if TYPE_CHECKING:
    from playwright.sync_api import Page

OURS = "airflow_provider_lucidworks"
KINDS = ("without", "with", "without, again")
NAME = "Lucidworks AI"
# Within the page, so that no message between it and this program is part of the time.
_OPEN = """async () => {
    const button = [...document.querySelectorAll("button")].find(one => one.innerText.includes("Add Connection"));
    const begin = performance.now();
    button.click();
    for (;;) {
        await new Promise(requestAnimationFrame);
        const types = document.querySelector("[role=dialog] input[role=combobox]");
        const took = performance.now() - begin;
        if (types && !types.disabled) return took;
        if (took > 30000) throw new Error("no form within 30 s");
    }
}"""


def environment(folder: Path, *, ours: bool) -> Path:
    """
    A virtual environment of links to what is installed here.

    :param ours: whether this package is installed in it.
    :return: its Python.
    """
    venv.create(folder)
    [packages] = (folder / "lib").glob("python*/site-packages")
    for each in Path(sysconfig.get_path("purelib")).iterdir():
        if ours or not each.name.lstrip("_").startswith(OURS):
            (packages / each.name).symlink_to(each)
    return folder / "bin" / "python"


class Server:
    """An API server; all are shown by one page, since a browser draws those in the background once a second."""

    def __init__(self, folder: Path, *, ours: bool) -> None:
        (folder / "dags").mkdir(parents=True)
        self.ours = ours
        self.airflow = AirflowStack(folder / "home", folder / "dags", say=lambda _: None)
        self.airflow.commands = {"api-server": self.airflow.commands["api-server"]}
        self.airflow.python = environment(folder / "venv", ours=ours)
        self._fresh = True
        self._session = requests.Session()
        self._session.trust_env = False

    def restart(self) -> None:
        """A process that has not looked at any provider yet."""
        if not self._fresh:
            self.airflow.stop_part("api-server")
            self.airflow.start_part("api-server")
        self._fresh = False
        response = self._session.get(f"{self.airflow.url}/auth/token", timeout=30)
        self._session.headers["Authorization"] = f"Bearer {response.json()['access_token']}"

    def ask(self) -> float:
        """Milliseconds of a look at the connection types."""
        begin = time.perf_counter()
        response = self._session.get(f"{self.airflow.url}/ui/connections/hook_meta", timeout=60)
        took = time.perf_counter() - begin
        response.raise_for_status()
        if (NAME in response.text) is not self.ours:
            raise RuntimeError(f"{self.airflow.python} was to have our connection type: {self.ours}")
        return took * 1000

    def open(self, page: Page) -> float:
        """Milliseconds from the click to a form that can be filled in."""
        page.goto(f"{self.airflow.url}/connections")
        page.get_by_role("button", name="Add Connection").wait_for()
        return float(page.evaluate(_OPEN))


def in_turn(servers: dict[str, Server], count: int, what: Callable[[Server], float]) -> dict[str, float]:
    """Medians of so many looks at each server, one at a time and each time in another order."""
    seen: dict[str, list[float]] = {kind: [] for kind in servers}
    for number in range(count):
        order = list(servers)[number % len(servers) :] + list(servers)[: number % len(servers)]
        for kind in order:
            seen[kind].append(what(servers[kind]))
    return {kind: statistics.median(times) for kind, times in seen.items()}


def main() -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.connection_form")
    parser.add_argument("--rounds", type=int, default=5, help="starts of each server (%(default)s)")
    rounds = parser.parse_args().rounds
    found: defaultdict[str, list[dict[str, float]]] = defaultdict(list)
    with ExitStack() as stack:
        stack.enter_context(install_signal_handlers())
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
        servers = {kind: Server(root / str(number), ours=kind == "with") for number, kind in enumerate(KINDS)}
        for server in servers.values():
            stack.enter_context(server.airflow)
        context = stack.enter_context(browser(root / "profile"))
        page = context.new_page()
        page.set_default_timeout(60_000)
        whats: dict[str, tuple[int, Callable[[Server], float]]] = {
            "hook_meta, first": (1, Server.ask),
            "hook_meta, later": (200, Server.ask),
            "click to form": (30, lambda server: server.open(page)),
        }
        for server in servers.values():
            server.open(page)  # its files are in the cache of the browser then
        for number in range(rounds):
            order = dict(list(servers.items())[number % 3 :] + list(servers.items())[: number % 3])
            for server in order.values():
                server.restart()
            for what, (count, measure) in whats.items():
                found[what].append(in_turn(order, count, measure))
    load = ", ".join(f"{one:.1f}" for one in os.getloadavg())
    print(f"{rounds} rounds, Python {sys.version.split()[0]}, load {load}")
    for what, pairs in found.items():
        print(f"{what}: milliseconds, and times those without")
        for kind in KINDS:
            times = [pair[kind] for pair in pairs]
            ratios = [pair[kind] / pair["without"] for pair in pairs]
            print(f"  {kind:<16} {spread(times, 1)}   {spread(ratios, 3)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
