# SPDX-License-Identifier: Apache-2.0
"""Column types of Delta tables as Arrow types, and back."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lucidworks_provider.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa

# By the names that pyarrow gives to its types. Delta has no unsigned numbers.
_NAMES = {
    "string": "string",
    "large_string": "string",
    "int8": "byte",
    "int16": "short",
    "uint8": "short",
    "int32": "integer",
    "int64": "long",
    "float": "float",
    "double": "double",
    "bool": "boolean",
    "binary": "binary",
    "date32[day]": "date",
    "timestamp[us, tz=UTC]": "timestamp",
}
_TYPES = {
    "string": "string",
    "byte": "int8",
    "short": "int16",
    "integer": "int32",
    "long": "int64",
    "float": "float32",
    "double": "float64",
    "boolean": "bool",
    "binary": "binary",
    "date": "date32",
    "timestamp_ntz": "timestamp[us]",
    "void": "null",
}
# Types within a type.
_PARTS = {"array": ("elementType",), "map": ("keyType", "valueType")}
_DECIMAL = re.compile(r"decimal\((\d+),\s*(-?\d+)\)")


def delta_schema(schema: pa.Schema) -> dict[str, Any]:
    """
    The schema of a table with these columns.

    :raises InputError: a column has a type that this package does not write; names it.
    """
    return {
        "type": "struct",
        "fields": [
            {
                "name": field.name,
                "type": _delta_type(field),
                "nullable": field.nullable,
                "metadata": {key.decode(): text.decode() for key, text in (field.metadata or {}).items()},
            }
            for field in schema
        ],
    }


def _delta_type(field: pa.Field) -> Any:
    import pyarrow as pa

    kind = field.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        item = kind.value_field
        return {"type": "array", "elementType": _delta_type(item), "containsNull": item.nullable}
    if str(kind) in _NAMES:
        return _NAMES[str(kind)]
    raise InputError(f"Column {field.name!r} has the type {kind}, which is not written to Delta tables.")


def check_schema(kind: Any) -> None:
    """
    Check the structure of a schema, or of a type that is not a string.

    :param kind: a struct, an array or a map, parsed from JSON.
    :raises KeyError: something is missing.
    :raises TypeError: something has another type.
    :raises ValueError: something has another type.
    """
    parts = [kind[name] for name in _PARTS.get(kind["type"], ())]
    for field in kind["fields"] if kind["type"] == "struct" else ():
        if not isinstance(field["name"], str):
            raise TypeError(f"a field with the name {field['name']!r}")
        dict(field.get("metadata") or {})
        parts.append(field["type"])
    for part in parts:
        if not isinstance(part, str):
            check_schema(part)


def arrow_schema(schema: Mapping[str, Any]) -> pa.Schema:
    """
    The columns of a table.

    :param schema: the struct of ``schemaString``.
    :raises InputError: a column has a type that this package does not read; names it.
    """
    import pyarrow as pa

    return pa.schema([_arrow_field(field) for field in schema["fields"]])


def _arrow_field(field: Mapping[str, Any]) -> pa.Field:
    import pyarrow as pa

    found = dict(field.get("metadata") or {})
    metadata = {key: text if isinstance(text, str) else str(text) for key, text in found.items()}
    kind = _arrow_type(field["type"], field["name"])
    return pa.field(field["name"], kind, _is_nullable(field, "nullable"), metadata=metadata or None)


def _is_nullable(kind: Mapping[str, Any], name: str) -> bool:
    # Some writers leave it out.
    return kind.get(name) is not False


def _arrow_type(kind: Any, column: str) -> pa.DataType:
    import pyarrow as pa

    if isinstance(kind, Mapping):
        if kind["type"] == "struct":
            return pa.struct([_arrow_field(field) for field in kind["fields"]])
        if kind["type"] == "array":
            element = _arrow_type(kind["elementType"], column)
            return pa.list_(pa.field("element", element, _is_nullable(kind, "containsNull")))
        if kind["type"] == "map":
            value = pa.field(
                "value", _arrow_type(kind["valueType"], column), _is_nullable(kind, "valueContainsNull")
            )
            return pa.map_(_arrow_type(kind["keyType"], column), value)
    elif kind == "timestamp":
        return pa.timestamp("us", "UTC")
    elif kind in _TYPES:
        return pa.type_for_alias(_TYPES[kind])
    elif found := _DECIMAL.fullmatch(kind):
        return pa.decimal128(int(found[1]), int(found[2]))
    raise InputError(f"Column {column!r} has the Delta type {kind!r}, which is not supported.")
