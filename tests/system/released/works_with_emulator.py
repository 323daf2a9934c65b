# SPDX-License-Identifier: Apache-2.0
"""Extra ``emulator``: the command line explains itself, pytest finds the fixture, and a hook is answered."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

TEST = """
from lucidworks_provider.client.use_cases import list_use_cases
from lucidworks_provider.hooks.lucidworks import LucidworksHook

def test_it(lucidworks_emulator):
    assert LucidworksHook("lucidworks_default").call(list_use_cases())
"""

if __name__ == "__main__":
    command = Path(sys.executable).with_name("lucidworks-emulator")
    said = subprocess.run([command, "--help"], capture_output=True, text=True, check=True).stdout
    assert "--token-ttl" in said
    test = Path(tempfile.mkdtemp()) / "test_it.py"
    test.write_text(TEST)
    pytest = [sys.executable, "-P", "-m", "pytest", "-q", "-p", "no:cacheprovider", str(test)]
    done = subprocess.run(pytest, capture_output=True, text=True, check=False, cwd=test.parent)
    assert "1 passed" in done.stdout, done.stdout + done.stderr
