# SPDX-License-Identifier: Apache-2.0
"""
What no extra is needed for, and what is said where one is missing.

This and its neighbours run in environments that have the released package and no checkout: no pytest, no fixtures.
"""

from __future__ import annotations

import contextlib
import io
import json
import pkgutil
import re
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import lucidworks_provider

BROUGHT_BY_EXTRAS = ("airflow.providers.redis", "lxml", "orjson", "pyarrow", "pyroaring")
# Airflow 3 brings these for its API server; 2.11 does not, and is what is acted here.
BROUGHT_BY_AIRFLOW = ("starlette", "uvicorn")
SERVER = "lucidworks_provider.emulator."
FOR_PYTEST = "lucidworks_provider.emulator.pytest_plugin"


def names_of_modules() -> list[str]:
    found = pkgutil.walk_packages(lucidworks_provider.__path__, "lucidworks_provider.")
    return sorted(one.name for one in found)


def refused(what: Callable[[], Any], extra: str) -> None:
    """It fails, and says which extra is missing."""
    try:
        what()
    except Exception as err:  # noqa: BLE001 - whatever is raised, it names the extra
        assert f"airflow-provider-lucidworks[{extra}]" in str(err), repr(err)
        return
    raise AssertionError(f"this worked without the extra {extra}")


def dataset_in(folder: Path) -> str:
    """Logs of two tables; what is wrong with their files is not reached without pyarrow."""
    from lucidworks_provider.delta.log import commit, protocol_action

    for name in ("chunks", "documents"):
        schema = json.dumps({"type": "struct", "fields": []})
        properties = {"lucidworks.options": json.dumps({"chunker": "sentence", "model_id": "m"})}
        metadata = {"id": "a", "format": {"provider": "parquet"}, "schemaString": schema}
        metadata |= {"partitionColumns": [], "configuration": properties}
        actions = [protocol_action(deletion_vectors=False), {"metaData": metadata}]
        assert commit(str(folder / name), 0, actions, operation="WRITE")
    return str(folder)


def main() -> None:
    """Fail where something does not hold."""
    for name in BROUGHT_BY_EXTRAS:
        with contextlib.suppress(ModuleNotFoundError):
            assert find_spec(name) is None, f"{name} is here, so nothing can be seen without it"
    for name in BROUGHT_BY_AIRFLOW:
        sys.modules[name] = None  # type: ignore[assignment]

    for name in names_of_modules():
        try:
            import_module(name)
        except ModuleNotFoundError as err:
            # The server's own rooms, which are reached through the package, and the plugin, which pytest loads.
            assert name.startswith(SERVER), (name, err)
            assert name == FOR_PYTEST or (err.name or "").partition(".")[0] in BROUGHT_BY_AIRFLOW, (name, err)

    from lucidworks_provider import corpus, emulator
    from lucidworks_provider.client.auth.token import TokenIdentity
    from lucidworks_provider.client.settings import parse_settings
    from lucidworks_provider.corpus.__main__ import main as inspect
    from lucidworks_provider.corpus.inspect import inspect as inspected
    from lucidworks_provider.corpus.report import render
    from lucidworks_provider.corpus.stats import RunStats
    from lucidworks_provider.documents.readers import ReadOptions, read_file_documents
    from lucidworks_provider.documents.source import Format, SourceFile
    from lucidworks_provider.emulator.__main__ import main as serve
    from lucidworks_provider.hooks.stores import AirflowStores
    from lucidworks_provider.jobs.task import check_suffix
    from lucidworks_provider.operators.corpus import (
        LucidworksChunkCorpusOperator,
        LucidworksPublishShardsOperator,
    )

    work = Path(tempfile.mkdtemp())
    catalogue = dataset_in(work / "catalogue")
    refused(lambda: corpus.open_dataset(catalogue), "documents")
    refused(lambda: corpus.open_documents(catalogue), "documents")
    refused(lambda: next(corpus.changes(catalogue, None)), "documents")
    refused(lambda: corpus.version_of(catalogue), "documents")
    refused(lambda: inspected(catalogue), "documents")
    publish = LucidworksPublishShardsOperator(task_id="t", staged=["/a"], output_uri=catalogue)
    refused(lambda: publish.execute({}), "documents")
    refused(lambda: check_suffix("a.parquet"), "documents")
    check_suffix("a.jsonl")
    for form in (Format.HTML, Format.PARQUET):
        refused(
            partial(read_file_documents, SourceFile(str(work / "a"), "a", 1, "", form), ReadOptions()),
            "documents",
        )
    task = LucidworksChunkCorpusOperator(
        task_id="t", source=str(work), output_uri=str(work / "out"), chunker="sentence", model_id="m"
    )
    refused(lambda: task.execute({}), "documents")
    refused(lambda: emulator.running, "emulator")
    refused(lambda: emulator.create_app, "emulator")
    extra = {"share_via": "redis", "redis_conn_id": "r"}
    settings = parse_settings("l", login="c", password="s", host="a", extra=extra)
    refused(
        AirflowStores().token_store(settings, TokenIdentity("https://a", "s", "c", "scope")).read, "redis"
    )

    stats = RunStats(1, 0.0)
    stats.request(200, 0.0)
    stats.chunked(1.0, 0.5, [100, 200], 90)
    assert render(stats.as_json(2.0), {}).count("<svg") == 3

    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        assert inspect(["inspect", catalogue]) == 1
        try:
            serve([])
        except SystemExit as left:
            assert left.code == 1
    assert re.findall(r"airflow-provider-lucidworks\[(\w+)\]", said.getvalue()) == ["documents", "emulator"]


if __name__ == "__main__":
    main()
