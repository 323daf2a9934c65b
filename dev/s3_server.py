# SPDX-License-Identifier: Apache-2.0
"""moto's server of the S3 protocol in this process, with an empty bucket and an Airflow connection to it."""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

BUCKET = "bucket"
_REGION = "us-east-1"


@contextmanager
def s3_server(conn_id: str) -> Iterator[str]:
    """
    Run the server; the URI of the bucket.

    :param conn_id: of the connection, which is set in the environment.
    """
    from moto.s3.responses import S3Response
    from moto.server import ThreadedMotoServer

    # moto's conditional requests are not atomic.
    one_at_a_time, put = threading.Lock(), S3Response.put_object

    def put_object(response: S3Response) -> Any:
        with one_at_a_time:
            return put(response)

    # It logs each request.
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    extra = {"endpoint_url": f"http://{host}:{port}", "region_name": _REGION}
    os.environ[f"AIRFLOW_CONN_{conn_id.upper()}"] = json.dumps(
        {"conn_type": "aws", "login": "key", "password": "secret", "extra": extra}
    )
    s3_client(conn_id).create_bucket(Bucket=BUCKET)
    try:
        with patch.object(S3Response, "put_object", put_object):
            yield f"s3://{conn_id}@{BUCKET}"
    finally:
        server.stop()


def delta_rs_options(conn_id: str) -> dict[str, str]:
    """Options of delta-rs for the server of a connection."""
    connection = json.loads(os.environ[f"AIRFLOW_CONN_{conn_id.upper()}"])
    return {
        "AWS_ENDPOINT_URL": connection["extra"]["endpoint_url"],
        "AWS_ALLOW_HTTP": "true",
        "AWS_REGION": connection["extra"]["region_name"],
        "AWS_ACCESS_KEY_ID": connection["login"],
        "AWS_SECRET_ACCESS_KEY": connection["password"],
    }


def s3_client(conn_id: str) -> Any:
    """A client of boto3 for the server of a connection."""
    import boto3

    connection = json.loads(os.environ[f"AIRFLOW_CONN_{conn_id.upper()}"])
    keys = {"aws_access_key_id": connection["login"], "aws_secret_access_key": connection["password"]}
    return boto3.client("s3", **connection["extra"], **keys)
