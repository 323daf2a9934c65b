# SPDX-License-Identifier: Apache-2.0
"""
Check prose: phrases that are banned in pages, docstrings, comments and messages.

``python -m dev.prose`` prints ``file:line: phrase: use …`` for each, and fails if there are any. Code is
skipped: fenced blocks, inline code, and quoted messages in pages; strings in tests that are data.
"""

from __future__ import annotations

import argparse
import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CHECKED = (
    *("README.md", "CHANGELOG.md", "SECURITY.md", "CONTRIBUTING.md", "CODE_OF_CONDUCT.md"),
    *(".github", "benchmarks", "dev", "docs", "deploy", "example_dags", "lucidworks_provider", "tests"),
)
SUFFIXES = (".md", ".py", ".yml", ".yaml", ".tf", ".json")
# Lists of words and phrases, and the vendor's description of its API.
SKIPPED = (
    "dev/prose.py",
    "lucidworks_provider/emulator/sentences.py",
    "tests/integration/contract/lucidworks-ai-openapi.yaml",
    "tests/unit/test_unit_prose.py",
)

# What is banned, and what to write instead.
BANNED = {
    r"(?<!s\s)who(?:m|ever)?": "the component or the user as the subject",
    r"(?:some|no|every|any)body|someone|everyone|anyone": "the component or the user as the subject",
    r"tells?|told|telling": "report, return, show, distinguish",
    r"go(?:es|ing)? on(?! storage)|went on": "continue",
    r"stands?(?!-| up to)|stood": "is, remains, is stored",
    r"lies|lie|lying": "is, is stored",
    r"the other way round": "say what happens",
    r"cuts? (?:\w+ ){0,3}off": "invalidate, truncate",
    r"(?:a|an|each|one|two|every|first|last|next) looks?|looks into": "poll, read",
    r"as (?:it|they) (?:stands?|came|comes?)": "unchanged",
    r"what follows": "effect",
    r"what becomes? of|know better": "status, effect",
    r"what is (?:not )?there": "existing, missing",
    r"under ?way": "in flight, active",
    r"hand(?:s|ed|ing)? (?:over|out|on|in)": "pass, return, submit",
    r"ask(?:s|ed|ing)? (?:\w+ )?for": "request, poll",
    r"hears?|heard|believes?|believed|thinks|thought|wants": "components receive, trust, assume, need",
    r"takes? (?:\w+ )?for (?:dead|granted|itself|ours)": "consider",
    r"all the same|even so": "anyway, or leave it out",
    r"in earnest|for good|for certain|in vain|at hand": "a plain word",
    r"do(?:es)? as well": "works too",
    r"crowds?": "many processes",
    r"mint(?:s|ed|ing)?": "refresh",
    r"nothing is to be": "not needed",
    r"brings? (?:\w+ ){1,3}up to(?! date)": "sync",
    r"ends? the story|quiet (?:minute|night)": "reset",
    r"fails? for a button": "say what is not fatal",
    r"learnt": "since the change, knows",
    r"lets? (?:the (?:next|other)s?(?: one)?|others) in": "release",
    r"the one live|live access": "the access token",
    r"under the hands": "for every client",
    r"(?:is|are|was|were) wanted": "the goal is",
    r"cutting (?:\w+ ){0,3}off": "invalidate, truncate",
    r"look(?:s|ed|ing)? (?:at|for)": "read, search, check",
    r"what people|what one \w+s": "name the users, or the component",
    r"ha(?:s|ve) (?:its|their) say": "decide",
    r"is worth": "state, effect",
    r"judges?|judged|judging": "check, decide",
    r"mend(?:s|ed|ing)?": "fix, repair",
    r"no screen": "the UI does not show it",
}


# Whole words, in any case and over line breaks, with what to write instead.
PATTERNS = [
    (re.compile(r"\b(?:" + phrase.replace(" ", r"\s+") + r")\b", re.IGNORECASE), use)
    for phrase, use in BANNED.items()
]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.parse_args()
    found = [line for path in files() for line in problems(path)]
    print("\n".join(found), end="\n" if found else "")
    return bool(found)


def files() -> Iterator[Path]:
    """The pages, the files for users, and the modules."""
    for name in CHECKED:
        place = ROOT / name
        within = sorted(one for one in place.rglob("*") if one.suffix in SUFFIXES)
        for path in within if place.is_dir() else [place] if place.exists() else []:
            relative = path.relative_to(ROOT)
            if "_build" not in relative.parts and str(relative) not in SKIPPED:
                yield path


def problems(path: Path) -> list[str]:
    """A line for each banned phrase."""
    text = path.read_text()
    in_tests = path.relative_to(ROOT).parts[0] == "tests"
    passages = of_module(text, data=in_tests) if path.suffix == ".py" else of_page(text)
    found = sorted(
        (line + text.count("\n", 0, match.start()), " ".join(match[0].split()), use)
        for line, text in passages
        for pattern, use in PATTERNS
        for match in pattern.finditer(text)
    )
    return [f"{path.relative_to(ROOT)}:{line}: {phrase}: use {use}" for line, phrase, use in found]


def blank(pattern: str, text: str) -> str:
    """The text without what matches; line numbers stay."""
    return re.sub(
        pattern, lambda match: re.sub(r"[^\n]", " ", match[0]), text, flags=re.MULTILINE | re.DOTALL
    )


def of_page(text: str) -> Iterator[tuple[int, str]]:
    """The prose of a page: without blocks, inline code, quotations and the targets of links."""
    for code in (r"^```.*?^```$", r"(`+)(?!`).+?(?<!`)\1(?!`)", r"^>.*?$", r"\]\([^)]*\)", r"https?://\S+"):
        text = blank(code, text)
    yield 1, text


def of_module(text: str, *, data: bool) -> Iterator[tuple[int, str]]:
    """
    Comments, docstrings and messages. Consecutive comments are one text.

    :param data: skip strings that are neither docstrings nor messages of assertions nor printed.
    """
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    comments = [(one.start[0], one.string) for one in tokens if one.type == tokenize.COMMENT]
    for _, lines in groupby(enumerate(comments), lambda one: one[1][0] - one[0]):
        block = [comment for _, comment in lines]
        yield block[0][0], "\n".join(comment for _, comment in block)
    for part in ast.walk(ast.parse(text)):
        for node in messages(part) if data else (part,):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
                yield node.lineno, blank(r"``.+?``", node.value)


def messages(node: ast.AST) -> Iterator[ast.AST]:
    """A docstring, or the parts of an assertion's message or of printed text."""
    match node:
        case ast.Expr(value=ast.Constant() as docstring):
            yield docstring
        case ast.Assert(msg=ast.expr() as message):
            yield from ast.walk(message)
        case ast.Call(func=ast.Name(id="print")):
            for argument in node.args:
                yield from ast.walk(argument)


if __name__ == "__main__":
    sys.exit(main())
