# SPDX-License-Identifier: Apache-2.0
"""A wrong wall clock for single processes, which can be changed while they run; see ``wrong_clock.c``."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

_SOURCE = Path(__file__).with_suffix(".c")


class WrongClock:
    """:param folder: for the compiled library and the clock's error."""

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
        The environment of a process with this clock.

        :param later: only from its call of ``wrong_clock_join`` on.
        """
        if not self._library.exists():
            command = ["cc", "-O1", "-shared", "-fPIC", "-o", str(self._library), str(_SOURCE), "-ldl"]
            subprocess.run(command, check=True, capture_output=True)
        found = {"LD_PRELOAD": str(self._library), "WRONG_CLOCK": str(self._error)}
        return found | ({"WRONG_CLOCK_LATER": "1"} if later else {})

    def step(self, seconds: int) -> None:
        """Set the clock's error."""
        with self._error.open("r+b" if self._error.exists() else "wb") as file:
            file.write(struct.pack("@l", seconds))
