# SPDX-License-Identifier: Apache-2.0
"""The demo, as a user runs it: it shows what it promises, and leaves nothing behind."""

import re
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from dev.processes import REPOSITORY, ManagedProcess, clean_environment
from dev.reaper import GROUP_MARK, PART_MARK, find_marked

pytestmark = pytest.mark.live


@contextmanager
def demo(folder: Path) -> Iterator[ManagedProcess]:
    """``python -m dev.demo``, surely ended."""
    command = [sys.executable, "-u", "-m", "dev.demo", "--folder", str(folder / "demo")]
    with ManagedProcess(
        command, clean_environment(), folder / "output.txt", REPOSITORY, name="demo"
    ) as process:
        yield process


def descendants(process: ManagedProcess) -> tuple[set[str], set[psutil.Process]]:
    """The marks of the groups that the demo started, and all its processes with the safety nets."""
    assert process.pid is not None
    children = set(psutil.Process(process.pid).children(recursive=True))
    groups = set()
    for child in children:
        with suppress(psutil.Error):
            environment = child.environ()
            if environment.get(PART_MARK) != "demo":
                groups.add(environment.get(GROUP_MARK, ""))
    # A safety net inherits the mark of its parent process, and has the one it guards in its command line.
    return groups - {""}, children


def test_the_demo_shows_a_result_and_ends(tmp_path: Path) -> None:
    with demo(tmp_path) as process:
        began = time.monotonic()
        process.wait_for("^Airflow: ready", 120)
        groups, _ = descendants(process)
        assert len(groups) == 2, "an emulator and an Airflow"
        assert process.wait(180) == 0, process.tail()
        output = process.output()
    print(f"the demo took {time.monotonic() - began:.0f} s")

    assert "The run ended: success" in output
    table = re.search(
        r"documents +chunks +tokens +dimension\n +([\d,]+) +([\d,]+) +([\d,]+) +(\d+)\n", output
    )
    assert table is not None, output
    documents, chunks, tokens, dimension = (int(number.replace(",", "")) for number in table.groups())
    assert (documents >= 79, chunks > documents, tokens > chunks, dimension) == (True, True, True, 384)
    nearest = re.findall(r"^(0\.\d{3})  (\S+\.txt) +\S", output, re.MULTILINE)
    assert len(nearest) == 3
    assert sorted(nearest, key=lambda line: line[0], reverse=True) == nearest
    uri = re.search(r"^file://(\S+\.parquet)$", output, re.MULTILINE)
    assert uri is not None, output
    written = pq.read_table(uri[1])
    assert written.num_rows == chunks
    assert len(written["document_id"].unique()) == documents
    assert f"{documents + 1} submissions" in output
    assert "with 1 access token(s), and refused 0 calls (401)" in output
    assert [find_marked(group) for group in groups] == [[], []]


def test_an_interrupted_demo_leaves_no_process(tmp_path: Path) -> None:
    with demo(tmp_path) as process:
        process.wait_for("chunk: running", 180)
        groups, children = descendants(process)
        assert len(groups) == 2
        marked = [each for group in groups for each in find_marked(group)]
        assert len(marked) > 6
        began = time.monotonic()
        process.send(signal.SIGINT)
        assert process.wait(30) == 130
        seconds = time.monotonic() - began
        print(f"{len(marked)} processes were gone {seconds:.1f} s after the interrupt")

        assert [find_marked(group) for group in groups] == [[], []]
        assert "Interrupted; everything is stopped." in process.output()
        assert "Traceback" not in process.output()
        _, alive = psutil.wait_procs(children | set(marked), timeout=5)
        assert [each for each in alive if each.status() != psutil.STATUS_ZOMBIE] == []
