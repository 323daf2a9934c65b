# SPDX-License-Identifier: Apache-2.0
"""
What a task reads and writes, for OpenLineage: addresses, columns, counts and options. No keys, no texts.

An operator says it in plain values (:class:`Lineage`); :func:`facets_of` puts them into standard facets of
OpenLineage, whose packages are imported there and nowhere else.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lucidworks_provider.errors import InputError, LucidworksError

if TYPE_CHECKING:
    from airflow.providers.openlineage.extractors import OperatorLineage

    from lucidworks_provider.client.api.chunking import ChunkingOptions
    from lucidworks_provider.client.api.use_cases import PredictionOptions

_MAGIC = re.compile(r"[*?\[]")
# Several schemes for one store; OpenLineage knows it by one.
_SAME = {"s3a": "s3", "s3n": "s3", "gcs": "gs", "abfs": "abfss", "az": "abfss", "wasb": "wasbs"}
_AZURE = frozenset({"abfss", "wasbs"})


@dataclass(frozen=True, slots=True)
class Lineage:
    """
    What a task reads and writes.

    :param inputs: URIs of files, folders or globs.
    :param output: URI of what was written; None where nothing was, or not yet.
    :param columns: of the output, with their types.
    :param rows: that were written.
    :param version: of the output, where it has one.
    :param parameters: how the output was made.
    """

    inputs: Sequence[str] = ()
    output: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    rows: int | None = None
    version: str | None = None
    parameters: Mapping[str, str] = field(default_factory=dict)


def dataset_name(uri: str, *, glob: bool = False) -> tuple[str, str]:
    """
    Namespace and name of a dataset, by OpenLineage's naming specification.

    What stands before a host is the id of a connection or a password, and what follows the path of a web address
    may be a signature: neither is part of the name.

    :param uri: of a file or a folder; or an absolute path.
    :param glob: whether it may be a glob, which has the name of the last folder before its first wildcard, unless
        there is a local file or folder of that very name.
    """
    uri = uri.strip()
    if glob and _MAGIC.search(uri):
        from lucidworks_provider.documents.source import source_folder
        from lucidworks_provider.storage import local_path

        # A store that cannot be reached would hold up the listener; a disk that cannot be read, the task reports.
        if local_path(uri) is not None:
            with suppress(LucidworksError):
                uri, glob = source_folder(uri), False
    scheme, separator, rest = uri.partition("://")
    if not separator:
        scheme, rest = "file", scheme
    scheme = _SAME.get(scheme, scheme)
    if scheme in {"http", "https"}:
        rest = re.split("[?#]", rest)[0]
    if glob and (magic := _MAGIC.search(rest)):
        rest = rest[: magic.start()].rpartition("/")[0]
    if scheme in {"file", "local"}:
        return "file", rest.rstrip("/") or "/"
    authority, _, path = rest.partition("/")
    before, _, host = authority.rpartition("@")
    # In Azure's own addresses the container stands there.
    if not (scheme in _AZURE and host.endswith(".core.windows.net") and ":" not in before):
        authority = host
    return f"{scheme}://{authority}", path.strip("/") or "/"


class LineageMixin:
    """Of an operator that says what it reads and writes."""

    if TYPE_CHECKING:
        inlets: Any

    def _lineage(self) -> Lineage:
        """By the rendered arguments, and by what this very process has written; raises InputError."""
        raise NotImplementedError

    def get_openlineage_facets_on_start(self) -> OperatorLineage[Any, Any] | None:
        """What is read; OpenLineage's listener asks."""
        try:
            lineage = self._lineage()
        except InputError:
            lineage = Lineage()  # the task itself says what is wrong with its arguments
        return facets_of(lineage, self.inlets)

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> OperatorLineage[Any, Any] | None:
        """What was read and written. OpenLineage's listener asks this after a failure, too."""
        return self.get_openlineage_facets_on_start()


class TrainingLineageMixin(LineageMixin):
    """Of an operator that trains; what it makes lies with the vendor, and is no dataset."""

    if TYPE_CHECKING:
        model_type: str
        training_data: Any

    def _lineage(self) -> Lineage:
        from lucidworks_provider.operators.values import dictionary

        data = dictionary(self.training_data, "training_data") or {}
        inputs = [one for one in data.values() if isinstance(one, str) and "://" in one]
        return Lineage(inputs=inputs, parameters={"model_type": str(self.model_type)})


def of_chunks(
    options: ChunkingOptions,
    manifest: Mapping[str, Any],
    *,
    inputs: Sequence[str] = (),
    with_hash: bool = False,
) -> Lineage:
    """
    Of a task that makes chunks.

    :param manifest: what it returned; empty before that.
    :param with_hash: whether the output is a dataset, which has a column for the hash of the document.
    """
    output = manifest.get("dataset") or manifest.get("uri")
    columns: dict[str, str] = {}
    if output is not None:
        from lucidworks_provider.jobs.chunk_columns import chunk_schema

        try:
            columns = _columns(chunk_schema(options, manifest.get("dimension") or 0, with_hash=with_hash))
        except ImportError:
            columns = {}  # the types are Arrow's; JSON Lines are written without it
    return Lineage(
        inputs=inputs,
        output=output,
        columns=columns,
        rows=manifest.get("written", manifest.get("chunks")),
        version=None if manifest.get("version") is None else str(manifest["version"]),
        parameters=_parameters(options.as_json()),
    )


def of_predictions(
    options: PredictionOptions[Any],
    manifest: Mapping[str, Any],
    inputs: Sequence[str] = (),
    kept: Mapping[str, Any] | None = None,
) -> Lineage:
    """
    Of a task that makes predictions. Their configuration may hold texts, and is told by its fingerprint alone.

    :param manifest: what it returned, if it wrote a file.
    :param inputs: URIs of the files that it reads.
    :param kept: types of the key and the other columns that are passed through.
    """
    output = manifest.get("uri")
    columns: dict[str, str] = {}
    # Rows of JSON Lines are what the service has sent, and have no schema.
    if output is not None and output.endswith(".parquet"):
        from lucidworks_provider.jobs.prediction_file import prediction_fields

        columns = _columns(prediction_fields(options, manifest.get("dimension") or 0, kept))
    told = {name: value for name, value in options.as_json().items() if isinstance(value, str)}
    return Lineage(
        inputs=inputs,
        output=output,
        columns=columns,
        rows=manifest.get("predictions"),
        parameters=_parameters(options.as_json(), told),
    )


def _columns(fields: Any) -> dict[str, str]:
    """Arrow's words, without its word for what a list is made of, which is another one in a file."""
    return {one.name: str(one.type).replace("<item: ", "<") for one in fields}


def _parameters(options: Mapping[str, Any], told: Mapping[str, Any] | None = None) -> dict[str, str]:
    """Options by dotted names, and a fingerprint of all of them."""
    from lucidworks_provider.jobs.record import fingerprint_of

    flat: dict[str, str] = {}
    for name, value in (options if told is None else told).items():
        within = value if isinstance(value, Mapping) else None
        flat |= (
            {name: str(value)}
            if within is None
            else {f"{name}.{key}": str(each) for key, each in within.items()}
        )
    return flat | {"fingerprint": fingerprint_of(options, [])}


def facets_of(lineage: Lineage, inlets: Sequence[Any] = ()) -> OperatorLineage[Any, Any] | None:
    """
    The same in OpenLineage's words.

    :param inlets: of the operator; where no input is known, they are what its author says that it reads.
    :return: None where the OpenLineage provider is not installed, or too old.
    """
    try:
        from airflow.providers.common.compat.openlineage.facet import (
            InputDataset,
            OutputDataset,
            OutputStatisticsOutputDatasetFacet,
            SchemaDatasetFacet,
            SchemaDatasetFacetFields,
        )
        from airflow.providers.openlineage.extractors import OperatorLineage
        from airflow.providers.openlineage.extractors.manager import ExtractorManager
        from openlineage.client.facet_v2 import dataset_version_dataset, execution_parameters_run
    except ImportError:
        return None
    names = dict.fromkeys(dataset_name(uri, glob=True) for uri in lineage.inputs)
    inputs = [InputDataset(*name) for name in names]
    declared = [] if inputs else [ExtractorManager.convert_to_ol_dataset(each) for each in inlets]
    outputs = []
    if lineage.output is not None:
        namespace, name = dataset_name(lineage.output)
        facets: dict[str, Any] = {}
        if lineage.columns:
            fields = [SchemaDatasetFacetFields(name=key, type=kind) for key, kind in lineage.columns.items()]
            facets["schema"] = SchemaDatasetFacet(fields=fields)
        if lineage.version:
            facets["version"] = dataset_version_dataset.DatasetVersionDatasetFacet(lineage.version)
        counts: dict[str, Any] = {}
        if lineage.rows is not None:
            counts["outputStatistics"] = OutputStatisticsOutputDatasetFacet(rowCount=lineage.rows)
        outputs.append(OutputDataset(namespace, name, facets=facets, outputFacets=counts))
    parameters = [
        execution_parameters_run.ExecutionParameter(key=f"lucidworks.{key}", value=value)
        for key, value in lineage.parameters.items()
    ]
    facet = execution_parameters_run.ExecutionParametersRunFacet(parameters=parameters)
    return OperatorLineage(
        inputs=[*inputs, *(each for each in declared if each is not None)],
        outputs=outputs,
        run_facets={"executionParameters": facet} if parameters else {},
    )
