# SPDX-License-Identifier: Apache-2.0
"""A token does not show itself, and what this process logs shows no token that it has handed out."""

import copy
import io
import json
import logging
import os
import pickle
import secrets
import subprocess
import sys
from collections import namedtuple
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
import structlog

from lucidworks_provider.client.secrets import MASK, REMEMBERED, SHORTEST, TokenText, redact_in_logs


def new_token() -> str:
    return f"AT.{secrets.token_urlsafe(600)}"


TOKEN = new_token()


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """What a handler of the root logger writes; everything is as before afterwards."""
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    root = logging.getLogger()
    processors = structlog.get_config()["processors"]
    before, level = list(processors), root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    for _ in range(REMEMBERED):  # those of other tests are forgotten
        redact_in_logs(new_token())
    yield out
    root.removeHandler(handler)
    root.setLevel(level)
    processors[:] = before


def format_as(lines: io.StringIO, formatter: logging.Formatter) -> None:
    """For the handler that writes the lines."""
    for handler in logging.getLogger().handlers:
        if getattr(handler, "stream", None) is lines:
            handler.setFormatter(formatter)


def fail(text: str) -> None:
    raise ValueError(f"refused: {text}")


class TestTokenText:
    def test_it_is_the_token(self) -> None:
        token = redact_in_logs(TOKEN)
        assert f"Bearer {token}" == "Bearer " + token == f"Bearer {TOKEN}" == "Bearer %s" % token  # noqa: UP031
        assert (token, hash(token), {TOKEN: 1}[token]) == (TOKEN, hash(TOKEN), 1)
        assert json.loads(json.dumps({"token": token, token: 1})) == {"token": TOKEN, TOKEN: 1}
        assert type(str(token)) is type(f"{token}") is str
        assert str(token) == TOKEN
        request = requests.Request("GET", "https://x.test", headers={"Authorization": f"Bearer {token}"})
        assert request.prepare().headers["Authorization"] == f"Bearer {TOKEN}"

    def test_it_does_not_show_itself(self) -> None:
        @dataclass
        class Holder:
            token: str

        token = redact_in_logs(TOKEN)
        shown = [repr(token), f"{token!r}", f"{token!a}", "%r" % token]  # noqa: UP031
        shown += [repr([{"t": (token,)}]), repr(Holder(token))]
        assert not [text for text in shown if TOKEN in text]
        assert all("<access token>" in text for text in shown)

    def test_copies_do_not_either(self) -> None:
        token = redact_in_logs(TOKEN)
        for each in (pickle.loads(pickle.dumps(token)), copy.deepcopy(token), copy.copy(token)):  # noqa: S301
            assert (type(each), str(each)) == (TokenText, TOKEN)
        assert redact_in_logs(token) is token, "hiding it again makes no other"


class TestLogging:
    @pytest.mark.parametrize(
        ("message", "arguments"),
        [
            (f"got {TOKEN}", ()),
            (f"got {TOKEN}, 100 %", ()),
            (f"got {TOKEN} in %d s", (3,)),
            ("got %s, then %s", (TOKEN, 2)),
            ("got %r", (TOKEN,)),
            ("got %r", (TOKEN.encode(),)),
            ("%(token)s", ({"token": TOKEN},)),
            ("headers: %s", ({"Authorization": [("Bearer", f"Bearer {TOKEN}")]},)),
            ("%s", (ValueError(TOKEN),)),
            (ValueError(TOKEN), ()),
            ({"event": TOKEN}, ()),
            ("does not fit: %d", (TOKEN,)),
            ("does not fit either", (TOKEN,)),
        ],
    )
    def test_messages(self, lines: io.StringIO, capsys: Any, message: Any, arguments: Any) -> None:
        redact_in_logs(TOKEN)
        logging.getLogger("urllib3.connectionpool").debug(message, *arguments)
        assert TOKEN not in lines.getvalue()
        assert TOKEN not in capsys.readouterr().err  # where logging tells about arguments that do not fit
        assert MASK in lines.getvalue()

    def test_tracebacks(self, lines: io.StringIO) -> None:
        redact_in_logs(TOKEN)
        try:
            try:
                fail(TOKEN)
            except ValueError as err:
                err.add_note(f"note {TOKEN}")
                raise RuntimeError("while calling") from err
        except RuntimeError as err:
            logging.getLogger("some").exception("it %s", "failed")
            cause = err.__cause__
        text = lines.getvalue()
        assert TOKEN not in text
        parts = ("it failed\n", "Traceback", "in fail", f"refused: {MASK}", f"note {MASK}", "while calling")
        assert [part for part in parts if part not in text] == []
        assert str(cause) == f"refused: {TOKEN}"  # the program's exception is left alone

    def test_a_harmless_traceback_stays_structured(self, lines: io.StringIO) -> None:
        redact_in_logs(TOKEN)
        seen: list[logging.LogRecord] = []
        handler = logging.Handler()
        handler.emit = seen.append  # type: ignore[method-assign]
        logging.getLogger("some").addHandler(handler)
        redact_in_logs(new_token())
        try:
            fail("nothing")
        except ValueError:
            logging.getLogger("some").exception("it failed")
        logging.getLogger("some").removeHandler(handler)
        assert (bool(seen[0].exc_info), seen[0].msg) == (True, "it failed")

    def test_extra_fields_and_stacks(self, lines: io.StringIO) -> None:
        pair = namedtuple("pair", ["a", "b"])
        extra = {"one": TOKEN, "two": {"deep": [("x", TOKEN), pair(1, TOKEN)], TOKEN: {TOKEN}}, "three": 3}
        before = copy.deepcopy(extra)
        format_as(lines, logging.Formatter("%(message)s %(one)s %(two)s %(three)s"))
        redact_in_logs(TOKEN)
        logging.getLogger("some").info("hello", extra=extra, stack_info=True)
        assert TOKEN not in lines.getvalue()
        assert "hello" in lines.getvalue()
        assert extra == before  # the caller's objects are left alone

    def test_what_holds_itself(self, lines: io.StringIO) -> None:
        redact_in_logs(TOKEN)
        loop: list[Any] = [TOKEN]
        loop.append(loop)
        format_as(lines, logging.Formatter("{message}, {loop[0]}", style="{"))
        logging.getLogger("some").info("a %s", loop, extra={"loop": loop})
        assert lines.getvalue() == f"a ['{MASK}', [...]], {MASK}\n"

    def test_handlers_of_other_loggers_and_later_ones(self, lines: io.StringIO) -> None:
        """As uvicorn's, and after logging was configured anew."""
        other, later = io.StringIO(), io.StringIO()
        logger = logging.getLogger("some.server")
        logger.propagate = False
        logger.addHandler(logging.StreamHandler(other))
        redact_in_logs(TOKEN)
        logger.error("a %s", TOKEN)
        # In front, for the others change the record that it would see.
        logging.getLogger().handlers.insert(0, handler := logging.StreamHandler(later))
        redact_in_logs(TOKEN)
        logging.getLogger().warning("a %s", TOKEN)
        logging.getLogger().removeHandler(handler)
        assert other.getvalue() == later.getvalue() == f"a {MASK}\n"

    def test_structlog_configured_anew(self, lines: io.StringIO) -> None:
        before = structlog.get_config()
        try:
            for kind in (list, tuple):
                out = io.StringIO()
                structlog.configure(
                    processors=kind([structlog.processors.KeyValueRenderer()]),
                    logger_factory=structlog.PrintLoggerFactory(out),
                    wrapper_class=structlog.BoundLogger,
                    cache_logger_on_first_use=False,
                )
                redact_in_logs(TOKEN)
                structlog.get_logger().msg("a", token=TOKEN)
                assert f"token='{MASK}'" in out.getvalue()
        finally:
            structlog.configure(**before)

    def test_structlog_that_ends_in_logging(self, lines: io.StringIO) -> None:
        out = io.StringIO()
        handler = logging.StreamHandler(out)
        handler.setFormatter(
            structlog.stdlib.ProcessorFormatter(processor=structlog.processors.KeyValueRenderer())
        )
        logger = logging.getLogger("some.structured")
        logger.propagate = False
        logger.addHandler(handler)
        redact_in_logs(TOKEN)
        structlog.wrap_logger(
            logger,
            processors=[structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
            wrapper_class=structlog.stdlib.BoundLogger,
        ).info("a", deep={"b": [TOKEN]})
        assert f"deep={{'b': ['{MASK}']}}" in out.getvalue()

    def test_installed_once(self, lines: io.StringIO) -> None:
        def installed() -> list[int]:
            handlers = [len(handler.filters) for handler in logging.getLogger().handlers]
            return [len(structlog.get_config()["processors"]), *handlers]

        before = installed()
        for _ in range(3):
            redact_in_logs(TOKEN)
            redact_in_logs(new_token())
        assert installed() == before

    def test_nothing_is_installed_at_import(self) -> None:
        program = (
            "import logging, sys; logging.basicConfig()\n"
            "import lucidworks_provider.client.secrets\n"
            "assert not logging.getLogger().handlers[0].filters\n"
            "print(*(m for m in sys.modules if m.split('.')[0] in {'airflow', 'structlog'}))"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        assert done.stdout.split() == []

    def test_memory_is_bounded_and_the_latest_count(self, lines: io.StringIO) -> None:
        tokens = [new_token() for _ in range(50)]
        for token in tokens:
            redact_in_logs(token)
        for token in tokens[-REMEMBERED:]:
            logging.getLogger("some").info("a %s", token)
        assert set(lines.getvalue().split()) == {"a", MASK}
        logging.getLogger("some").info("b %s", tokens[0])
        redact_in_logs(tokens[0])  # in use again
        logging.getLogger("some").info("c %s", tokens[0])
        assert lines.getvalue().endswith(f"b {tokens[0]}\nc {MASK}\n")

    def test_words_are_no_tokens(self, lines: io.StringIO) -> None:
        for short in ("", "a", "x" * (SHORTEST - 1)):
            assert redact_in_logs(short) == short
        logging.getLogger("some").info("a %s", "x" * SHORTEST)
        assert MASK not in lines.getvalue()

    @pytest.mark.parametrize("tokens", [REMEMBERED // 8, 100])
    def test_threads(self, tokens: int, lines: io.StringIO) -> None:
        def work(_: int) -> None:
            for _ in range(tokens):
                token = f"AT.{secrets.token_urlsafe(100)}"
                redact_in_logs(token)
                logging.getLogger("some").info("a %s", token)

        with ThreadPoolExecutor(8) as threads:
            list(threads.map(work, range(8)))  # raises what they raised
        if 8 * tokens <= REMEMBERED:
            assert set(lines.getvalue().split()) == {"a", MASK}

    def test_it_never_raises(self, lines: io.StringIO) -> None:
        class Odd(str):
            __slots__ = ()

            def __contains__(self, _: object) -> bool:
                raise RuntimeError("broken")

        class OddHandler(logging.NullHandler):
            def addFilter(self, _: object) -> None:
                raise RuntimeError("broken")

        logging.getLogger().handlers.insert(0, handler := OddHandler())
        assert redact_in_logs(TOKEN) == TOKEN
        logging.getLogger().removeHandler(handler)
        logging.getLogger("some").info("still here", extra={"odd": Odd("x")})
        assert "still here" in lines.getvalue()
        for processor in structlog.get_config()["processors"][-1:]:
            assert processor(None, "info", Odd("line")) == "line"


PROGRAM = """
import json, logging, sys, warnings
import structlog
from lucidworks_provider.client.secrets import redact_in_logs

{configure}
early = structlog.get_logger("early")
early.info("cached by now")
stdlib = logging.getLogger("urllib3.connectionpool")
warnings.simplefilter("always")


def log_all(token):
    for log in (early, structlog.get_logger("later"), stdlib, logging.getLogger("uvicorn.error")):
        log.warning("plain " + token)
        log.warning("args %s %s", token, [token])
        log.warning("mapping %(a)s", {{"a": token}})
        try:
            raise ValueError("text of " + token)
        except ValueError:
            log.exception("failed")
    early.warning("field", token=token, deep={{"a": [token]}})
    early.bind(token=token).warning("bound")
    warnings.warn("warned of " + token)
    for stream in (sys.stdout, sys.stderr):
        print("END", file=stream, flush=True)


log_all({token!r})
log_all(redact_in_logs({token!r}))
"""
# As Airflow's API server, scheduler, and DAG processor do it; and as its tasks and triggers do it.
COMPONENT = "from airflow.logging_config import configure_logging; configure_logging()"
CHILD = (
    "from airflow.sdk.log import configure_logging;"
    "configure_logging(json_output=True, output=sys.stdout.buffer, sending_to_supervisor=True)"
)


class TestAirflow:
    """Each way in which Airflow 3 sets up its logging, in a process of its own."""

    @pytest.mark.parametrize(
        ("configure", "settings"),
        [(COMPONENT, {}), (COMPONENT, {"AIRFLOW__LOGGING__JSON_LOGS": "True"}), (CHILD, {})],
        ids=["component", "component, json", "task or trigger"],
    )
    def test_all_lines(self, tmp_path: Path, configure: str, settings: dict[str, str]) -> None:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM.format(configure=configure, token=TOKEN)],
            env=os.environ | {"AIRFLOW_HOME": str(tmp_path), **settings},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        streams = done.stdout.split("END\n"), done.stderr.split("END\n")
        plain, hidden, _ = map("".join, zip(*streams, strict=True))
        assert TOKEN not in hidden
        # Without redaction they show it, in as many places: nothing was lost on the way.
        assert plain.count(TOKEN) >= 20
        for words in ("text of ", "plain ", "args ", "mapping ", "warned of "):
            assert hidden.count(words + MASK) == plain.count(words + TOKEN) > 0
