# SPDX-License-Identifier: Apache-2.0
"""Extra ``s3``: a URI of S3 has its file system, and a store that is not there is an error that names the file."""

from __future__ import annotations

import json
import os

from lucidworks_provider.errors import StorageError
from lucidworks_provider.storage import read_file, store_path

if __name__ == "__main__":
    extra = {"endpoint_url": "http://127.0.0.1:1", "config_kwargs": {"retries": {"max_attempts": 1}}}
    os.environ["AIRFLOW_CONN_STORE"] = json.dumps(
        {"conn_type": "aws", "login": "a", "password": "b", "extra": extra}
    )
    path = store_path("s3://store@bucket/folder/a file")
    assert (type(path.fs).__name__, path.path) == ("S3FileSystem", "bucket/folder/a file"), path
    try:
        read_file("s3://store@bucket/x")
    except StorageError as err:
        assert "s3://store@bucket/x cannot be read" in str(err), err
    else:
        raise AssertionError("there is no server")
