from __future__ import annotations
from lucidworks_provider.storage import create_file, names_in, read_file
import time


def test_create(folder: str) -> None:
    uri = f"{folder}/lease/00000001.json"
    t = time.time()
    assert names_in(f"{folder}/lease") == []
    r = [create_file(uri, b"one"), create_file(uri, b"two"), create_file(uri, b"one")]
    print(folder, r, read_file(uri), names_in(f"{folder}/lease"), time.time() - t)
    assert r == [True, False, True]
