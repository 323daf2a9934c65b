# SPDX-License-Identifier: Apache-2.0
"""Extra ``azure``: a URI of Azure Blob Storage has its file system."""

from __future__ import annotations

import base64
import json
import os

from lucidworks_provider.storage import store_path

if __name__ == "__main__":
    key = base64.b64encode(b"key").decode()
    text = f"DefaultEndpointsProtocol=http;AccountName=a;AccountKey={key};BlobEndpoint=http://127.0.0.1:1/a;"
    os.environ["AIRFLOW_CONN_STORE"] = json.dumps({"conn_type": "wasb", "extra": {"connection_string": text}})
    path = store_path("abfs://store@container/folder/a file")
    assert (type(path.fs).__name__, path.path) == ("AzureBlobFileSystem", "container/folder/a file"), path
