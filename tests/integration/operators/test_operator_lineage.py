# SPDX-License-Identifier: Apache-2.0
"""What operators say to OpenLineage, by values; ``tests/system/live/test_live_lineage.py`` reads real events."""

import copy
import json
import pickle
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import pyarrow.parquet as pq
import pytest
from openlineage.client.serde import Serde

from lucidworks_provider.decorators.chunk import _ChunkDecoratedOperator
from lucidworks_provider.documents.source import list_source
from lucidworks_provider.operators.chunking import LucidworksChunkOperator
from lucidworks_provider.operators.corpus import (
    LucidworksChunkCorpusOperator,
    LucidworksPublishShardsOperator,
)
from lucidworks_provider.operators.lineage import Lineage, dataset_name, facets_of
from lucidworks_provider.operators.models import LucidworksTrainModelOperator
from lucidworks_provider.operators.prediction import LucidworksPredictionOperator
from lucidworks_provider.operators.secrets import SecretMap
from lucidworks_provider.sensors.jobs import LucidworksJobSensor
from lucidworks_provider.storage import write_file

try:
    from airflow.sdk.io import attach
except ImportError:  # Airflow 2
    from airflow.io.store import attach

CHUNKING: dict[str, Any] = {"task_id": "t", "chunker": "sentence", "model_id": "gte-small"}


AZURE = "account.dfs.core.windows.net"
DATA = {"catalog": "gs://b/c"}


@pytest.mark.parametrize(
    ("uri", "namespace", "name"),
    [
        ("/data/catalogue/", "file", "/data/catalogue"),
        ("file:///data/chunks.parquet", "file", "/data/chunks.parquet"),
        ("local:///data/a", "file", "/data/a"),
        ("/", "file", "/"),
        ("s3://bucket/a/b.parquet", "s3://bucket", "a/b.parquet"),
        ("s3://bucket/[a]/b?.parquet", "s3://bucket", "[a]/b?.parquet"),  # what is written is no glob
        ("s3a://my_conn@bucket/a/", "s3://bucket", "a"),
        ("s3://bucket", "s3://bucket", "/"),
        ("gs://bucket/a", "gs://bucket", "a"),
        ("gcs://bucket/a", "gs://bucket", "a"),
        (f"abfs://container@{AZURE}/a/b", f"abfss://container@{AZURE}", "a/b"),
        ("abfs://my_conn@container/a/b", "abfss://container", "a/b"),
        ("hdfs://namenode:8020/a/b", "hdfs://namenode:8020", "a/b"),
        # Passwords and signatures are no names.
        ("https://user:secret@host/a/b.txt?sig=secret#secret", "https://host", "a/b.txt"),
        ("https://host/a?token=secret&then=https://other/b", "https://host", "a"),
        ("sftp://user:secret@host/a", "sftp://host", "a"),
        (f"abfs://user:secret@{AZURE}/a", f"abfss://{AZURE}", "a"),
        ("https://user:secret@account.blob.core.windows.net/a", "https://account.blob.core.windows.net", "a"),
    ],
)
def test_names(uri: str, namespace: str, name: str) -> None:
    assert dataset_name(uri) == (namespace, name)


@pytest.mark.parametrize(
    ("uri", "namespace", "name"),
    [
        ("s3://bucket/docs/**/*.md", "s3://bucket", "docs"),
        ("/data/part-?.jsonl", "file", "/data"),
        ("s3://bucket/[ab].txt", "s3://bucket", "/"),
        ("s3://bucket/docs/", "s3://bucket", "docs"),
        ("https://host/a/b.txt?sig=secret", "https://host", "a/b.txt"),
    ],
)
def test_a_glob_has_the_name_of_its_folder(uri: str, namespace: str, name: str) -> None:
    assert dataset_name(uri, glob=True) == (namespace, name)


def test_a_folder_that_looks_like_a_glob_has_its_own_name(tmp_path: Path) -> None:
    (tmp_path / "[draft]").mkdir()
    assert dataset_name(str(tmp_path / "[draft]"), glob=True) == ("file", f"{tmp_path}/[draft]")
    assert dataset_name(str(tmp_path / "[draf]t"), glob=True) == ("file", str(tmp_path))


def test_a_folder_of_a_store_that_looks_like_a_glob_has_its_own_name_once_it_was_read() -> None:
    attach(protocol="memory", fs=fsspec.filesystem("memory"))
    source = "memory://lineage/a[1]/**/*.txt"
    write_file("memory://lineage/a[1]/b.txt", b"text")
    assert dataset_name(source, glob=True) == ("memory://lineage", "/")
    assert [file.path for file in list_source(source)] == ["b.txt"]
    assert dataset_name(source, glob=True) == ("memory://lineage", "a[1]")
    assert list(list_source("memory://lineage/a[1]"))
    assert dataset_name("memory://lineage/a[1]/", glob=True) == ("memory://lineage", "a[1]")


def test_names_are_those_of_openlineage() -> None:
    from openlineage.client.naming import dataset

    for uri, named in {
        "s3://bucket/a/b": dataset.S3("bucket", "a/b"),
        "gs://bucket/a/b": dataset.GCS("bucket", "a/b"),
        "hdfs://bucket:8020/a/b": dataset.HDFS("bucket", "8020", "a/b"),
        "file:///bucket/a/b": dataset.LocalFileSystem("/bucket/a/b"),
    }.items():
        assert dataset_name(uri) == (named.get_namespace(), named.get_name())


def of(operator: Any, manifest: dict[str, Any] | None = None) -> dict[str, Any]:
    """What OpenLineage would send."""
    operator.manifest = manifest
    said = operator.get_openlineage_facets_on_complete(SimpleNamespace())
    assert said is not None
    return json.loads(Serde.to_json(said))


def named(datasets: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(one["namespace"], one["name"]) for one in datasets]


def corpus(source: Any = "s3://b/raw", output_uri: str = "s3://b/chunks", **more: Any) -> Any:
    return LucidworksChunkCorpusOperator(**CHUNKING, source=source, output_uri=output_uri, **more)


def shards() -> Any:
    return LucidworksPublishShardsOperator(task_id="t", staged=["s3://b/staged"], output_uri="s3://b/chunks")


def test_nothing_is_said_where_the_provider_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    operator = LucidworksChunkOperator(result_path="/a.parquet", text="x", **CHUNKING)
    monkeypatch.setitem(sys.modules, "airflow.providers.openlineage.extractors", None)
    assert operator.get_openlineage_facets_on_start() is None
    assert operator.get_openlineage_facets_on_complete(SimpleNamespace()) is None


def test_a_file_has_the_columns_that_were_written(tmp_path: Path) -> None:
    from lucidworks_provider.client.chunking import Chunk
    from lucidworks_provider.jobs.chunk_task import chunk_file

    path = f"{tmp_path}/chunks.parquet"
    operator = LucidworksChunkOperator(result_path=path, text="A text.", **CHUNKING)
    with chunk_file(path, operator.chunking_options()) as file:
        file.add("a", [Chunk("A text.", (0, 7), [0.5, 0.25, 0.125], 3)], [(0, 7)])
    [output] = of(operator, file.manifest)["outputs"]
    found = {one["name"]: one["type"] for one in output["facets"]["schema"]["fields"]}
    assert found == {one.name: str(one.type).replace("element: ", "") for one in pq.read_schema(path)}
    assert found["vector"] == "fixed_size_list<float>[3]"
    assert output["outputFacets"]["outputStatistics"]["rowCount"] == 1


@pytest.mark.parametrize(("make", "inputs"), [(corpus, [("s3://b", "raw")]), (shards, None)])
@pytest.mark.parametrize("version", [0, 4])
def test_a_dataset_has_its_version_and_the_rows_of_this_run(make: Any, inputs: Any, version: int) -> None:
    counts = {"version": version, "since": 3, "chunks": 900, "written": 7, "dimension": 384}
    said = of(make(), {"dataset": "s3://b/chunks"} | counts)
    [output] = said["outputs"]
    assert named([output]) == [("s3://b", "chunks")]
    assert output["outputFacets"]["outputStatistics"]["rowCount"] == 7
    assert output["facets"]["version"]["datasetVersion"] == str(version)
    assert inputs is None or named(said["inputs"]) == inputs
    # Nothing is written before it has ended well.
    assert of(make())["outputs"] == []


def test_the_event_on_the_page_is_the_one_that_is_sent() -> None:
    page = (Path(__file__).parents[3] / "docs/lineage.md").read_text()
    [shown] = [json.loads(block) for block in re.findall(r"^```json\n(.*?)^```$", page, re.M | re.S)]
    config = {"dimReductionSize": 256, "vectorQuantizationMethod": "max-scale"}
    places = ("s3://shop/catalogue", "s3://search/chunks")
    operator = corpus(*places, chunker_config={"chunkSize": 1}, model_config=config)
    counts = {"version": 42, "written": 18, "chunks": 900, "dimension": 256}
    sent = of(operator, {"dataset": "s3://search/chunks"} | counts)
    sent["run"] = {"facets": sent.pop("run_facets")}
    assert without_producers(sent) == {name: shown[name] for name in ("inputs", "outputs", "run")}


def without_producers(value: Any) -> Any:
    """Without empty fields and those that every facet has, and with a fingerprint as the page shows it."""
    if isinstance(value, list):
        return [without_producers(one) for one in value]
    if isinstance(value, dict):
        kept = {name: without_producers(one) for name, one in value.items() if not name.startswith("_")}
        return {name: one for name, one in kept.items() if one not in (None, {}, [])}
    return f"{value[:12]}…" if isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value) else value


@pytest.mark.parametrize("source", [[{"id": "a", "text": "Secret."}], '[{"id": "a", "text": "Secret."}]'])
def test_inline_documents_are_no_input(source: Any) -> None:
    said = of(corpus(source))
    assert (said["inputs"], said["outputs"]) == ([], [])
    assert "Secret." not in json.dumps(said)


def test_a_function_that_returns_documents_reports_its_output() -> None:
    arguments: dict[str, Any] = {"result_path": "/a.jsonl", "python_callable": lambda: "Secret.", **CHUNKING}
    said = of(_ChunkDecoratedOperator(**arguments), {"uri": "/a.jsonl", "chunks": 2, "dimension": 3})
    assert said["outputs"][0]["outputFacets"]["outputStatistics"]["rowCount"] == 2
    assert {"executionParameters"} == set(said["run_facets"])


def test_a_body_has_neither_columns_nor_rows() -> None:
    said = of(LucidworksJobSensor(task_id="t", job_id="j"), {"uri": "s3://b/body.json", "job_id": "j"})
    assert said["outputs"] == [{"namespace": "s3://b", "name": "body.json", "facets": {}, "outputFacets": {}}]


def test_wrong_arguments_fail_the_task_not_the_lineage() -> None:
    operator = LucidworksChunkOperator(result_path="/a.jsonl", text="x", **CHUNKING | {"chunker": "none"})
    assert of(operator) == {"inputs": [], "outputs": [], "job_facets": {}, "run_facets": {}}


def test_a_configuration_has_another_fingerprint_and_no_key() -> None:
    def parameters(**options: Any) -> dict[str, str]:
        given = {"use_case": "summarization", "model_id": "m", "inputs": ["A text"]}
        with pytest.warns(UserWarning, match="was given a key"):
            operator = LucidworksPredictionOperator(
                task_id="t", model_config={"apiKey": "the-third-party-key", **options}, **given
            )
        said = of(operator)
        assert "the-third-party-key" not in json.dumps(said)
        return {one["key"]: one["value"] for one in said["run_facets"]["executionParameters"]["parameters"]}

    cold, warm = parameters(temperature=0.1), parameters(temperature=0.9)
    assert cold.pop("lucidworks.fingerprint") != warm.pop("lucidworks.fingerprint")
    assert cold == warm == {"lucidworks.use_case": "summarization", "lucidworks.model_id": "m"}


def test_training_data_is_what_is_read() -> None:
    data = '{"catalog": "gs://b/catalogue.parquet", "signals": "none"}'
    training = LucidworksTrainModelOperator(task_id="t", name="n", model_type="m", training_data=data)
    assert named(of(training)["inputs"]) == [("gs://b", "catalogue.parquet")]


def test_the_standard_facets_are_named_as_the_standard_does() -> None:
    lineage = Lineage(output="s3://b/c", columns={"a": "int32"}, rows=1, version="v", parameters={"p": "1"})
    said = json.loads(Serde.to_json(facets_of(lineage)))
    [output] = said["outputs"]
    facets = {**output["facets"], **output["outputFacets"], **said["run_facets"]}
    assert {name: facet["_schemaURL"].rpartition("/")[2] for name, facet in facets.items()} == {
        "schema": "SchemaDatasetFacet",
        "version": "DatasetVersionDatasetFacet",
        "outputStatistics": "OutputStatisticsOutputDatasetFacet",
        "executionParameters": "ExecutionParametersRunFacet",
    }


def test_all_attributes_of_an_operator_show_no_key() -> None:
    """As OpenLineage sends them with ``include_full_task_info``."""
    from airflow.providers.openlineage.utils.utils import TaskInfoComplete

    keys = {"apiKey": "the-api-key", "serviceAccountKey": "the-account-key"}
    asked = {"use_case": "rag", "model_id": "m", "inputs": ["A text"], "model_config": keys}
    trained = {"name": "n", "model_type": "m", "training_data": DATA, "training_data_credentials": keys}
    for kind, given in ((LucidworksPredictionOperator, asked), (LucidworksTrainModelOperator, trained)):
        with pytest.warns(UserWarning, match="was given a key"):
            sent = Serde.to_json(TaskInfoComplete(kind(task_id="t", **given)))
        assert '"task_id"' in sent
        assert "the-a" not in sent


def test_keys_apart_survive_copies() -> None:
    keys = SecretMap({"apiKey": "the key"})
    for other in (copy.copy(keys), copy.deepcopy(keys), pickle.loads(pickle.dumps(keys))):  # noqa: S301
        assert dict(other) == {"apiKey": "the key"}
        assert f"{other} {other!r}" == "*** ***"
