# SPDX-License-Identifier: Apache-2.0
"""A wall clock that is wrong for single processes, and can be stepped while they run. See ``wrong_clock.c``."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

_SOURCE = Path(__file__).with_suffix(".c")


class WrongClock:
    """
    :param folder: for the compiled library and the clock's error.
    """

    def __init__(self, folder: Path) -> None:
        self._library = folder / "wrong_clock.so"
        self._error = folder / "wrong_clock"
        folder.mkdir(parents=True, exist_ok=True)
        self.step(0)

    @staticmethod
    def available() -> bool:
        """Whether there is a C compiler."""
        return shutil.which("cc") is not None

    def environment(self, *, later: bool = False) -> dict[str, str]:
        """
        Of a process that goes by this clock.

        :param later: it goes right until it calls ``wrong_clock_join``.
        """
        if not self._library.exists():
            command = ["cc", "-O1", "-shared", "-fPIC", "-o", str(self._library), str(_SOURCE), "-ldl"]
            subprocess.run(command, check=True, capture_output=True)
        found = {"LD_PRELOAD": str(self._library), "WRONG_CLOCK": str(self._error)}
        return found | ({"WRONG_CLOCK_LATER": "1"} if later else {})

    def step(self, seconds: int) -> None:
        """From now on it is wrong by so much."""
        with self._error.open("r+b" if self._error.exists() else "wb") as file:
            file.write(struct.pack("@l", seconds))
