# SPDX-License-Identifier: Apache-2.0
"""The command line: ``python -m lucidworks_provider.corpus inspect OUTPUT``."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from lucidworks_provider.errors import LucidworksError


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Inspect the tables of a catalogue.

    :return: the exit code: 1 if there are problems, otherwise 0.
    """
    options = _parser().parse_args(arguments)
    try:
        return _inspect(options)
    except LucidworksError as err:
        sys.stderr.write(f"{err}\n")
        return 1


def _inspect(options: argparse.Namespace) -> int:
    from lucidworks_provider.corpus.inspect import inspect

    read = None
    if options.source:
        from lucidworks_provider.documents.readers import ReadOptions

        # An argument has the name of its option.
        names = {one.name for one in fields(ReadOptions)} & vars(options).keys()
        read = ReadOptions(**{name: getattr(options, name) for name in names})
    started = time.monotonic()
    found = inspect(
        _uri(options.output),
        source=_uri(options.source) if options.source else None,
        read=read,
        sample=options.sample,
    )
    _print(found.output)
    for name, value in found.about.items():
        _print(f"  {name:<15} {value}")
    for note in found.notes:
        _print(note)
    for line in found.problems():
        _print(f"WRONG: {line}")
    seconds = time.monotonic() - started
    _print(f"{'Problems were found.' if found.counts else 'No problems found.'} ({seconds:.1f} s)")
    return 1 if found.counts else 0


def _uri(given: str) -> str:
    """Make a path absolute; a URI stays."""
    return given if "://" in given else str(Path(given).absolute())


def _count(given: str) -> int:
    number = int(given)
    if number < 1:
        raise ValueError
    return number


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lucidworks_provider.corpus")
    commands = parser.add_subparsers(required=True, metavar="inspect")
    one = commands.add_parser(
        "inspect",
        help="describe the tables of a catalogue and check them; exits with 1 when something is wrong",
    )
    one.add_argument("output", metavar="OUTPUT", help="the folder of the tables: a path or a URI")
    one.add_argument("--source", metavar="URI", help="compare with the source: a file, a folder or a glob")
    one.add_argument(
        "--sample", metavar="N", type=_count, help="number of documents to compare, chosen at random"
    )
    one.add_argument(
        "--id-column", default="id", metavar="NAME", help="of .jsonl, .csv and .parquet files (%(default)s)"
    )
    one.add_argument(
        "--text-column",
        default="text",
        metavar="NAME",
        help="of .jsonl, .csv and .parquet files (%(default)s)",
    )
    one.add_argument(
        "--encoding", metavar="NAME", help="of text files without a byte order mark that are not UTF-8"
    )
    one.add_argument(
        "--max-document-bytes",
        metavar="N",
        type=_count,
        default=argparse.SUPPRESS,
        help="limit for a document or line (20,000,000)",
    )
    one.add_argument("--csv-delimiter", metavar="C", help="between fields; a comma, of .tsv files a tab")
    one.add_argument("--csv-quotechar", metavar="C", default='"', help="around fields (%(default)s)")
    one.add_argument("--csv-escapechar", metavar="C", help="makes the next character part of the field")
    one.add_argument(
        "--csv-columns", metavar="NAME", nargs="+", help="the columns of .csv files without a header"
    )
    return parser


def _print(text: str) -> None:
    # Ids may have characters that the terminal cannot encode.
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")


if __name__ == "__main__":
    sys.exit(main())
