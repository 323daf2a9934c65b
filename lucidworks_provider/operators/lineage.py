# SPDX-License-Identifier: Apache-2.0
"""
What a task reads and writes, for OpenLineage.

Lineage has URIs, columns, counts and options, never keys or texts. An operator describes it in plain values
(:class:`Lineage`); :func:`facets_of` converts them to OpenLineage facets, and alone imports its packages.
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

    from lucidworks_provider.client.chunking import ChunkingOptions
    from lucidworks_provider.client.use_cases import PredictionOptions

_MAGIC = re.compile(r"[*?\[]")


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

    The user part of a URI may be a connection id or a password, and the query of a web address a signature: neither
    is part of the name.

    :param uri: of a file or a folder; or an absolute path.
    :param glob: whether it may be a glob, which is named by the last folder before its first wildcard. Local
        files and folders with the name of one are found, those of a store once this process has read the source.
    """
    uri = uri.strip()
    from lucidworks_provider.storage import SAME_STORE, local_path, plain_uri

    if glob and _MAGIC.search(uri):
        from lucidworks_provider.documents.source import known_folder, source_folder

        # An unavailable store would block the listener. The task itself reports unreadable disks.
        find_folder = known_folder if local_path(uri) is None else source_folder
        with suppress(LucidworksError):
            if (folder := find_folder(uri)) is not None:
                uri, glob = folder, False
    scheme, separator, rest = plain_uri(uri).partition("://")
    if not separator:
        scheme, rest = "file", scheme
    scheme = SAME_STORE.get(scheme, scheme)
    if scheme in {"http", "https"}:
        rest = re.split("[?#]", rest)[0]
    if glob and (magic := _MAGIC.search(rest)):
        rest = rest[: magic.start()].rpartition("/")[0]
    if scheme in {"file", "local"}:
        return "file", rest.rstrip("/") or "/"
    authority, _, path = rest.partition("/")
    return f"{scheme}://{authority}", path.strip("/") or "/"


class LineageMixin:
    """OpenLineage's methods of an operator."""

    if TYPE_CHECKING:
        inlets: Any

    def _lineage(self) -> Lineage:
        """:raises InputError: a rendered argument is not valid."""
        raise NotImplementedError

    def get_openlineage_facets_on_start(self) -> OperatorLineage[Any, Any] | None:
        """Called by OpenLineage's listener."""
        try:
            lineage = self._lineage()
        except InputError:
            lineage = Lineage()  # the task itself reports it
        return facets_of(lineage, self.inlets)

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> OperatorLineage[Any, Any] | None:
        """Called by OpenLineage's listener, after a failure too."""
        return self.get_openlineage_facets_on_start()


def of_chunks(
    options: ChunkingOptions,
    manifest: Mapping[str, Any],
    *,
    inputs: Sequence[str] = (),
    with_hash: bool = False,
    kept: Mapping[str, Any] | None = None,
) -> Lineage:
    """
    Of a task that chunks documents.

    :param manifest: what it returned; empty before that.
    :param with_hash: whether the output has a column for the hash of the document.
    :param kept: types of the key and the other columns that are passed through.
    """
    output = manifest.get("dataset") or manifest.get("uri")
    columns: dict[str, str] = {}
    if output is not None:
        from lucidworks_provider.jobs.columns import chunk_schema

        # JSON Lines are written without Arrow.
        with suppress(ImportError):
            dimension = manifest.get("dimension") or 0
            columns = _columns(chunk_schema(options, dimension, with_hash=with_hash, kept=kept))
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
    Of a task of predictions. Only the fingerprint of their configuration is published: it may have texts.

    :param manifest: what it returned, if it wrote a file.
    :param inputs: URIs of the files that it reads.
    :param kept: types of the key and the other columns that are passed through.
    """
    output = manifest.get("uri")
    columns: dict[str, str] = {}
    # JSON Lines have no schema.
    if output is not None and output.endswith(".parquet"):
        from lucidworks_provider.jobs.prediction_task import prediction_schema

        columns = _columns(prediction_schema(options, manifest.get("dimension") or 0, kept))
    public = {name: value for name, value in options.as_json().items() if isinstance(value, str)}
    return Lineage(
        inputs=inputs,
        output=output,
        columns=columns,
        rows=manifest.get("predictions"),
        parameters=_parameters(options.as_json(), public),
    )


def _columns(fields: Any) -> dict[str, str]:
    """Types as Arrow writes them, without the name of a list's items, which differs in a file."""
    return {one.name: str(one.type).replace("<item: ", "<") for one in fields}


def _parameters(options: Mapping[str, Any], public: Mapping[str, Any] | None = None) -> dict[str, str]:
    """Options by dotted names, and a fingerprint of all of them."""
    from lucidworks_provider.jobs.record import fingerprint_of

    flat: dict[str, str] = {}
    for name, value in (options if public is None else public).items():
        if isinstance(value, Mapping):
            flat |= {f"{name}.{key}": str(each) for key, each in value.items()}
        else:
            flat[name] = str(value)
    return flat | {"fingerprint": fingerprint_of(options, [])}


def facets_of(lineage: Lineage, inlets: Sequence[Any] = ()) -> OperatorLineage[Any, Any] | None:
    """
    Convert lineage to OpenLineage facets.

    :param inlets: of the operator, used where no input is known.
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
