# SPDX-License-Identifier: Apache-2.0
"""Extra ``gcs``: a URI of Google Cloud Storage has its file system."""

from __future__ import annotations

import fsspec

from lucidworks_provider.storage import store_path

if __name__ == "__main__":
    fsspec.config.conf["gcs"] = fsspec.config.conf["gs"] = {"token": "anon"}
    path = store_path("gs://bucket/folder/a file")
    assert "gcsfs" in type(path.fs).__module__, path
    assert path.path == "bucket/folder/a file", path
