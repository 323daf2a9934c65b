# SPDX-License-Identifier: Apache-2.0
"""
What this package adds to the time until Airflow's form for a new connection is shown.

Compares API servers of one Airflow: in an environment with this package, in one without it, and in a second one
without it, which shows the noise. The environments have links to everything that is installed here, two of them
without this package's metadata, so that Airflow finds no entry point.

In each round, all servers are restarted and queried in turns: the first request for the connection types
(``hook_meta``), later ones, and in Chromium a click on "Add Connection" until a type can be selected.
"""

from __future__ import annotations

import statistics
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

from benchmarks.harness import command_line, median_range, print_heads, print_row
from dev.airflow_stack import AirflowStack, install_signal_handlers
from dev.browser import browser

if TYPE_CHECKING:
    from playwright.sync_api import Page

DISTRIBUTION = "airflow_provider_lucidworks"
KINDS = ("without", "with", "without, again")
NAME = "Lucidworks AI"
# Within the page, so that messages between it and this program are not part of the time.
_CLICK = """async () => {
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


def environment(folder: Path, *, with_package: bool) -> Path:
    """Create a virtual environment of links to what is installed here; its Python."""
    venv.create(folder)
    [packages] = (folder / "lib").glob("python*/site-packages")
    for each in Path(sysconfig.get_path("purelib")).iterdir():
        if with_package or not each.name.lstrip("_").startswith(DISTRIBUTION):
            (packages / each.name).symlink_to(each)
    return folder / "bin" / "python"


class Server:
    """An API server. All are shown by one page, because a browser draws background pages once a second."""

    def __init__(self, folder: Path, *, with_package: bool) -> None:
        (folder / "dags").mkdir(parents=True)
        self.with_package = with_package
        self.airflow = AirflowStack(folder / "home", folder / "dags", say=lambda _: None)
        self.airflow.commands = {"api-server": self.airflow.commands["api-server"]}
        self.airflow.python = environment(folder / "venv", with_package=with_package)
        self._session = requests.Session()
        self._session.trust_env = False

    def restart(self) -> None:
        """Start a process that has loaded no provider yet."""
        self.airflow.stop_part("api-server")
        self.airflow.start_part("api-server")
        response = self._session.get(f"{self.airflow.url}/auth/token", timeout=30)
        self._session.headers["Authorization"] = f"Bearer {response.json()['access_token']}"

    def request_types(self) -> float:
        """Milliseconds of a request for the connection types."""
        began = time.perf_counter()
        response = self._session.get(f"{self.airflow.url}/ui/connections/hook_meta", timeout=60)
        took = time.perf_counter() - began
        response.raise_for_status()
        if (NAME in response.text) is not self.with_package:
            raise RuntimeError(f"{self.airflow.python}: expected connection type: {self.with_package}")
        return took * 1000

    def open_form(self, page: Page) -> float:
        """Milliseconds from the click to a form that can be filled in."""
        page.goto(f"{self.airflow.url}/connections")
        page.get_by_role("button", name="Add Connection").wait_for()
        return float(page.evaluate(_CLICK))


def rotated(servers: dict[str, Server], number: int) -> dict[str, Server]:
    """The servers in another order for each number."""
    kinds = list(servers)
    first = number % len(kinds)
    return {kind: servers[kind] for kind in kinds[first:] + kinds[:first]}


def medians(servers: dict[str, Server], count: int, measure: Callable[[Server], float]) -> dict[str, float]:
    """Medians of ``count`` measurements of each server, in alternating order."""
    times = defaultdict[str, list[float]](list)
    for number in range(count):
        for kind, server in rotated(servers, number).items():
            times[kind].append(measure(server))
    return {kind: statistics.median(each) for kind, each in times.items()}


def main() -> None:
    options = command_line(__doc__, packages=["apache-airflow"], rounds=5)
    with ExitStack() as stack:
        stack.enter_context(install_signal_handlers())
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
        servers = {
            kind: Server(root / str(number), with_package=kind == "with") for number, kind in enumerate(KINDS)
        }
        for server in servers.values():
            stack.enter_context(server.airflow)
        page = stack.enter_context(browser(root / "profile")).new_page()
        page.set_default_timeout(60_000)
        for server in servers.values():
            server.open_form(page)  # fills the browser's cache

        cases: dict[str, tuple[int, Callable[[Server], float]]] = {
            "hook_meta, first request": (1, Server.request_types),
            "later requests": (200, Server.request_types),
            "click to form": (30, lambda server: server.open_form(page)),
        }
        results: dict[str, list[dict[str, float]]] = {what: [] for what in cases}
        for number in range(options.rounds):
            order = rotated(servers, number)
            for server in order.values():
                server.restart()
            for what, (count, measure) in cases.items():
                results[what].append(medians(order, count, measure))
    print_heads("what", *(f"{kind}, ms" for kind in KINDS), *(f"{kind} : without" for kind in KINDS[1:]))
    for what, rounds in results.items():
        times = [median_range((one[kind] for one in rounds), ".1f") for kind in KINDS]
        ratios = [median_range((r[kind] / r["without"] for r in rounds), ".3f") for kind in KINDS[1:]]
        print_row(what, *times, *ratios)


if __name__ == "__main__":
    main()
