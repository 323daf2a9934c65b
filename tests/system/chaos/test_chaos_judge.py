# SPDX-License-Identifier: Apache-2.0
"""The parts of the fault runs: the counts, the name server, the door, the clock."""

import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from dev.name_server import ADDRESS, NameServer
from dev.processes import free_ports
from dev.tls_door import Papers, TlsDoor
from dev.wrong_clock import WrongClock
from tests.system.chaos.judge import Storm, Toll, _at_stake, storm


def call(begin: float, end: float, endpoint: str = "submit", **more: Any) -> dict[str, Any]:
    line = {"time": begin, "seconds": end - begin, "endpoint": endpoint, "status": 200}
    return line | {"job_id": "j", "job_status": "SUBMITTED", "fault": None} | more


def test_a_response_at_stake_counts_once_however_many_kills_may_have_taken_it() -> None:
    log = [
        call(9.9, 10.2),
        call(9.9, 10.2, job_id=None),  # refused: no job, so nothing to lose
        call(9.9, 10.2, "poll"),  # not ready
        call(9.9, 10.2, "poll", job_status="READY"),
        call(5.0, 5.1),
    ]
    assert _at_stake(log, Toll(kills=[10.0, 10.1])) == 2
    assert _at_stake(log, Toll(spans=[(4.0, 6.0)])) == 1
    assert _at_stake(log, Toll()) == 0


def test_requests_within_retry_after() -> None:
    log = [
        call(1.0, 1.1, status=429),
        call(1.05, 1.2, status=429),  # was on its way
        call(1.5, 1.6, status=429),
        call(1.7, 1.8, status=429),
        call(2.0, 2.1, "token"),  # another application
        call(2.1, 2.2, "unknown"),  # its clock
        call(3.2, 3.3, status=429),
        call(5.4, 5.5),
    ]
    assert storm(log, 2.0) == Storm(2, on_the_way=1, later=1, most=1, endpoints="submit +0.6 s")
    assert storm([], 2.0) == Storm(0, 0, 0, 0)


def ask(port: int, name: str) -> tuple[int, bytes]:
    """Response code and address, by hand."""
    question = b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0\0\1\0\1"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.settimeout(5)
        asking.sendto(struct.pack("!HHHHHH", 7, 0x0100, 1, 0, 0, 0) + question, (ADDRESS, port))
        answer = asking.recv(512)
    number, flags, _, answers = struct.unpack("!HHHH", answer[:8])
    assert number == 7
    return flags & 0xF, answer[-4:] if answers else b""


def test_the_name_server() -> None:
    with NameServer("a.test", free_ports(1)[0]) as server:
        assert ask(server.port, "a.test") == (0, b"\x7f\0\0\1")
        assert ask(server.port, "b.test") == (3, b"")
        server.failing = True
        assert ask(server.port, "a.test") == (2, b"")
        assert server.failed == 1


@pytest.fixture
def echo() -> Iterator[int]:
    """A server that answers each piece with itself, but for ``wait``."""

    def serve(connection: socket.socket) -> None:
        with connection:
            while piece := connection.recv(100):
                if piece != b"wait":
                    connection.sendall(piece)

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1]


def test_the_door(echo: int, tmp_path: Path) -> None:
    with TlsDoor("a.test", echo, tmp_path) as door:
        context = ssl.create_default_context(cafile=str(door.bundle))

        def connect() -> ssl.SSLSocket:
            plain = socket.create_connection(("127.0.0.1", door.port), timeout=5)
            return context.wrap_socket(plain, server_hostname="a.test")

        with connect() as idle, connect() as busy:
            for each in (idle, busy):
                each.sendall(b"hello")
                assert each.recv(100) == b"hello"
            busy.sendall(b"wait")
            time.sleep(0.2)
            assert door.cut() == 1
            # The connection is reset; Python's TLS calls that an end before the time, and says so or not.
            with suppress(ConnectionResetError):
                assert busy.recv(100) == b""
        door.show(Papers.STRANGER)
        with pytest.raises(ssl.SSLCertVerificationError):
            connect()
        door.show(Papers.NONE)
        with pytest.raises((ssl.SSLError, ConnectionError)) as caught:
            connect()
        assert not isinstance(caught.value, ssl.SSLCertVerificationError)
        assert door.refused == 2
        door.show(Papers.GOOD)
        connect().close()


@pytest.mark.skipif(not WrongClock.available(), reason="no C compiler")
def test_the_clock_is_stepped_and_the_timers_are_not(tmp_path: Path) -> None:
    clock = WrongClock(tmp_path)
    told = "print(time.time() - float(sys.argv[1]), time.monotonic() - float(sys.argv[2]))"
    code = f"import ctypes, sys, time; {told}; ctypes.CDLL(None).wrong_clock_join(); time.sleep(0.01); {told}"
    clock.step(-3600)
    for later in (False, True):
        moment = [str(time.time()), str(time.monotonic())]
        done = subprocess.run(
            [sys.executable, "-c", code, *moment],
            env=clock.environment(later=later),
            capture_output=True,
            text=True,
            check=True,
        )
        before, after = ([float(word) for word in line.split()] for line in done.stdout.splitlines())
        assert before[0] == pytest.approx(0 if later else -3600, abs=60)
        assert after[0] == pytest.approx(-3600, abs=60)
        assert 0 <= before[1] < after[1] < 60
