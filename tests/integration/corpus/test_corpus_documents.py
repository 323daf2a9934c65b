# SPDX-License-Identifier: Apache-2.0
"""The documents of the benchmarks: reproducible, all different, of the requested size."""

import hashlib
from pathlib import Path

import pytest

from benchmarks.corpus_documents import PER_FOLDER, document, write_documents
from lucidworks_provider.emulator.sentences import count_tokens


def test_documents_are_the_same_everywhere() -> None:
    texts = [document(number, 4096) for number in range(20)]
    assert hashlib.sha256("".join(texts).encode()).hexdigest().startswith("1f4ff940606e957a")
    assert len(set(texts)) == 20


@pytest.mark.parametrize("size", [200, 600, 4096, 100_000])
def test_documents_have_the_requested_size(size: int) -> None:
    for number in range(20):
        text = document(number, size)
        assert size - 150 < len(text.encode()) <= size
        assert text == text.strip()
        assert count_tokens(text) > size / 15


def test_documents_are_spread_over_folders(tmp_path: Path) -> None:
    count = PER_FOLDER + 2
    total = write_documents(tmp_path, count, 200)
    files = sorted(tmp_path.rglob("*.txt"))
    assert (len(files), len({file.parent for file in files})) == (count, 2)
    assert sum(file.stat().st_size for file in files) == total
    assert files[7].read_text() == document(7, 200)
