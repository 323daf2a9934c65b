# SPDX-License-Identifier: Apache-2.0
"""
The promises of this package, and for each a test that fails without it.

A promise is proven by a mutant: one change of the source that breaks it. ``python -m dev.promises`` applies each
mutant to a copy of the repository, and expects its test to fail; ``--write`` writes docs/promises.md.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

REPOSITORY = Path(__file__).parents[1]
PAGE = REPOSITORY / "docs" / "promises.md"
PACKAGE = "lucidworks_provider"
COPIES = 2
_COPIED = ("benchmarks", "dev", "docs", "example_dags", PACKAGE, "tests", "pyproject.toml", "README.md")
TIMEOUT = 300


@dataclass(frozen=True, slots=True)
class Promise:
    """
    What a user can rely on.

    :param text: a sentence.
    :param test: ``<folder>/<file>::<test>`` below tests, without the prefixes that repeat its folder.
    :param module: path below the package.
    :param find: text that is in the module once.
    :param mutant: what replaces it.
    """

    text: str
    test: str
    module: str
    find: str
    mutant: str


PROMISES: dict[str, tuple[Promise, ...]] = {
    "Access tokens": (
        Promise(
            "Processes that need a token at the same time request one.",
            "unit/test_unit_protocol.py::test_a_cold_crowd_refreshes_once",
            "client/auth/protocol.py",
            "if context.monitor.alive(seen.claim, clocks.monotonic(), CLAIM_TIMEOUT + 6 * context.read_seconds):",
            "if False:",
        ),
        Promise(
            "After a 401, a process uses the token of the shared store if that is a different one.",
            "unit/test_unit_protocol.py::test_a_good_token_in_the_store_is_used_without_writing_anything",
            "client/auth/protocol.py",
            "if good is not None and not context.due(good):",
            "if False:",
        ),
        Promise(
            "A store that is down never leads to a request for a token.",
            "unit/test_unit_protocol.py::test_a_store_that_is_down_never_leads_to_a_refresh",
            "client/auth/protocol.py",
            "            return _without_store(context, seen)\n        if (ours",
            "            seen = Snapshot()\n        if (ours",
        ),
        Promise(
            "A store that does not return a value that was just written counts as down.",
            "unit/test_unit_protocol.py::test_a_store_that_shows_nothing_of_what_was_written_counts_as_down",
            "client/auth/protocol.py",
            "return seen.claim is None or (seen.token is None and before.token is not None)",
            "return False",
        ),
        Promise(
            "A process that is killed during a refresh delays the others by a few seconds only.",
            "unit/test_unit_protocol.py::test_a_dead_claimant_is_survived",
            "client/auth/protocol.py",
            "return now - self.since < lease",
            "return True",
        ),
        Promise(
            "A new token is published even if the task that requested it is stopped.",
            "unit/test_unit_source.py::test_a_refresh_whose_caller_is_stopped_is_published_all_the_same",
            "client/auth/source.py",
            "and requested.exception() is None:",
            "and False:",
        ),
        Promise(
            "Another system with the same client id causes an error that names it, not a race for tokens.",
            "unit/test_unit_protocol.py::test_thirty_foreign_tokens_a_minute_end_in_an_error_that_names_the_cause",
            "client/auth/token.py",
            "ALLOWED = 20",
            "ALLOWED = 2000",
        ),
        Promise(
            "A wrong clock causes no request for a token.",
            "unit/test_unit_protocol.py::test_a_clock_that_is_off_costs_no_refresh",
            "client/auth/protocol.py",
            "if context.expiry_uncertain(seen.token):",
            "if False:",
        ),
        Promise(
            "403s cost at most one new token in a token's lifetime.",
            "integration/transport/test_transport_forbidden.py::test_when_a_403_counts_as_a_401",
            "client/auth/source.py",
            "            or held.token.after_403\n",
            "",
        ),
        Promise(
            "A stored token can be read only with the client secret.",
            "unit/test_unit_source.py::test_only_the_same_secret_and_identity_open_a_sealed_token",
            "client/auth/token.py",
            "self._secret = client_secret.encode()",
            'self._secret = b"the same"',
        ),
    ),
    "Requests": (
        Promise(
            "A submission without a response is not repeated by the client.",
            "integration/transport/test_transport_retry.py::test_a_submission_without_a_response_is_not_repeated",
            "retrying.py",
            "return replayable or nothing_done(error)",
            "return True",
        ),
        Promise(
            "A failed poll is repeated.",
            "integration/transport/test_transport_retry.py::test_what_did_nothing_is_repeated",
            "retrying.py",
            "return replayable or nothing_done(error)",
            "return nothing_done(error)",
        ),
        Promise(
            "`Retry-After` is a lower bound.",
            "integration/transport/test_transport_retry.py::test_retry_after_is_waited_for",
            "retrying.py",
            "return asked + random.uniform(ceiling / 2, ceiling)",
            "return random.uniform(ceiling / 2, ceiling)",
        ),
        Promise(
            "`Retry-After` is a lower bound for polls of jobs, up to the deadline.",
            "unit/test_unit_jobs.py::test_no_poll_comes_before_the_retry_after_of_the_response_before",
            "jobs/decisions.py",
            "yield Sleep(min(max(seconds, asked_wait(asked)), left))",
            "yield Sleep(min(seconds, left))",
        ),
        Promise(
            "A compressed response cannot fill the memory.",
            "integration/transport/test_transport_body.py::test_a_small_response_that_unpacks_to_a_large_one",
            "client/http/transport.py",
            "if self._size > MOST_BYTES:",
            "if False:",
        ),
        Promise(
            "A response in an encoding that the request does not accept is an error that keeps the body.",
            "integration/transport/test_transport_encoding.py::test_another_encoding_is_named_and_nothing_is_repeated",
            "client/http/messages.py",
            "encoded = content_codings(encoding) is None",
            "encoded = False",
        ),
        Promise(
            "Secrets are removed from error responses.",
            "integration/transport/test_transport_secrets.py::test_a_server_that_quotes_the_secret",
            "client/http/messages.py",
            "return read(redact(response, *secrets))",
            "return read(response)",
        ),
        Promise(
            "Values, collections and tracebacks never show a token.",
            "unit/test_unit_secrets.py::TestTokenText::test_it_does_not_show_itself",
            "client/secrets.py",
            'return "<access token>"',
            "return str.__repr__(self)",
        ),
        Promise(
            "No serialized DAG contains the key of a third party.",
            "integration/operators/test_operator_prediction_secrets.py::test_no_key_is_in_the_serialized_dag",
            "operators/secrets.py",
            "return {**arguments, name: cls._redact(arguments[name])} if name in arguments else dict(arguments)",
            "return dict(arguments)",
        ),
    ),
    "Jobs": (
        Promise(
            "A retry submits only what has no job yet.",
            "integration/operators/test_operator_chunking.py::test_a_retry_submits_only_what_has_no_id",
            "jobs/record.py",
            "return [p for p in range(self.size) if p not in self.jobs]",
            "return list(range(self.size))",
        ),
        Promise(
            "Clearing a task that succeeded submits everything again.",
            "integration/operators/test_operator_chunking.py::test_after_a_success_a_retry_returns_and_a_clear_repeats",
            "jobs/record.py",
            "if found.result is not None and found.generation != generation:",
            "if False:",
        ),
        Promise(
            "Results of another input are not used.",
            "integration/operators/test_operator_chunking.py::test_changed_input_does_not_meet_the_old_bodies",
            "jobs/record.py",
            "if found.fingerprint != fingerprint:",
            "if False:",
        ),
        Promise(
            "A killed process loses at most the ids of the submissions in flight, and the record names these.",
            "unit/test_unit_submissions.py::test_a_kill_loses_the_ids_of_the_posts_in_flight_at_most",
            "jobs/task.py",
            "record.intend(following)",
            "pass",
        ),
        Promise(
            "No more than 1,000 jobs of a task have no result on storage.",
            "integration/operators/test_operator_prediction.py::test_a_task_of_many_jobs_has_few_of_them_outstanding",
            "jobs/task.py",
            "return missing[: max(0, WINDOW - outstanding)]",
            "return missing",
        ),
        Promise(
            "The cost of a submission does not grow with the jobs of its task.",
            "unit/test_unit_jobs.py::test_a_change_costs_one_part_of_a_record_whatever_its_size",
            "jobs/record.py",
            "stale.update(position // PART for position in positions)",
            "stale.update(self.parts)",
        ),
        Promise(
            "A failed submission stops the others, and the ids of those in flight are kept.",
            "unit/test_unit_submissions.py::test_a_failure_stops_submissions_and_keeps_the_ids_of_those_in_flight",
            "jobs/task.py",
            "free = 0 if failures else most - len(posts)",
            "free = most - len(posts)",
        ),
        Promise(
            "`on_unknown_submission` decides about a submission whose outcome is unknown.",
            "integration/operators/test_operator_chunking.py::test_the_policy_for_a_submission_without_a_response",
            "jobs/task.py",
            "                    1 + RESUBMISSIONS,",
            "                    1,",
        ),
        Promise(
            "One response with ERROR does not fail a job.",
            "integration/operators/test_operator_chunking.py::test_one_error_response_does_not_fail_a_job",
            "jobs/decisions.py",
            "REREADS = 2",
            "REREADS = 0",
        ),
        Promise(
            "A result that is on storage is not requested again.",
            "integration/operators/test_operator_chunking.py::test_bodies_that_arrived_are_not_asked_for_again",
            "jobs/polling.py",
            "missing = {p: job for p, job in record.awaited.items() if p not in stored}",
            "missing = record.awaited",
        ),
        Promise(
            "A result that is gone for the second time is an error.",
            "integration/operators/test_operator_chunking.py::test_a_result_that_is_gone_twice_is_an_error",
            "jobs/task.py",
            "if position in record.resubmitted:",
            "if False:",
        ),
        Promise(
            "A triggerer without access to the task's storage reads no result.",
            "integration/operators/test_operator_chunking.py::"
            "test_a_trigger_that_sees_another_storage_gives_the_jobs_back_unread",
            "jobs/polling.py",
            "if record is None or record.nonce != nonce:",
            "if record is None:",
        ),
        Promise(
            "A triggerer that cannot write to the task's storage reads no result.",
            "unit/test_unit_storage.py::test_a_result_that_cannot_be_stored_is_not_requested",
            "jobs/polling.py",
            "await in_thread(results.check_writable)",
            "pass",
        ),
        Promise(
            "A result waits in memory while the disk is full.",
            "unit/test_unit_storage.py::test_a_result_waits_in_memory_for_a_full_disk",
            "jobs/record.py",
            "attempts=SAVE_ATTEMPTS,",
            "attempts=1,",
        ),
        Promise(
            "A result with an unknown status is stored, and accepted if the next poll returns the same.",
            "integration/operators/test_operator_unkind.py::test_a_chunking_task",
            "jobs/polling.py",
            "case JobState.PENDING if result.has_payload:",
            "case JobState.PENDING if False:",
        ),
    ),
    "Responses of the service": (
        Promise(
            "Chunks of another text are refused.",
            "unit/test_unit_validation.py::test_chunks_of_another_text_are_refused",
            "client/validation.py",
            "LEAST_SHARE = 0.5",
            "LEAST_SHARE = 0.0",
        ),
        Promise(
            "Chunks that do not cover their text are found.",
            "unit/test_unit_validation.py::test_what_no_chunk_has_is_named",
            "client/validation.py",
            "reached = max(reached, end)",
            "reached = len(text)",
        ),
        Promise(
            "Vectors of different lengths are refused.",
            "unit/test_unit_validation.py::test_vectors_are_compared_with_what_was_asked",
            "client/validation.py",
            "if len(lengths) > 1:",
            "if False:",
        ),
        Promise(
            "Another number of predictions than inputs is an error, and is paid for once.",
            "integration/operators/test_operator_prediction.py::test_another_number_of_predictions_is_paid_for_once",
            "client/http/messages.py",
            "error.retryable = False",
            "error.retryable = True",
        ),
    ),
    "Catalogues": (
        Promise(
            "A run with nothing changed opens no file and sends nothing.",
            "integration/corpus/test_corpus_run.py::TestNextRun::test_nothing_changed_nothing_sent_nothing_opened",
            "corpus/plan.py",
            "elif self._same(file, self._db.known(file.path, old=self._reuse)):",
            "elif False:",
        ),
        Promise(
            "After a kill, a run counts every text that a killed try may have submitted.",
            "integration/corpus/test_corpus_counts.py::test_the_retry_returns_what_the_service_has_counted",
            "corpus/pipeline.py",
            "await self.runner.intents.stored(intents)",
            "pass",
        ),
        Promise(
            "Nothing is submitted while the journal cannot be written.",
            "integration/corpus/test_corpus_run.py::TestCrashes::test_nothing_is_submitted_while_the_journal_cannot_be_written",
            "corpus/pipeline.py",
            "await self.journal.writable()",
            "pass",
        ),
        Promise(
            "After `max_tokens` nothing more is submitted, and a run with a larger budget submits only the rest.",
            "integration/corpus/test_corpus_run.py::TestMaxTokens::test_the_rest_is_sent_after_it_was_raised",
            "corpus/pipeline.py",
            "self.budget.check_tokens()",
            "pass",
        ),
        Promise(
            "The next process continues with what was stored before a kill.",
            "integration/corpus/test_corpus_segments.py::TestJournal::test_what_was_flushed_is_found_by_the_next_process",
            "corpus/journal.py",
            "await in_thread(write_file, self._uri(name), group.lines)",
            "pass",
        ),
        Promise(
            "Documents behind a link whose target is gone are not removed.",
            "integration/corpus/test_corpus_run.py::TestNextRun::test_prune_keeps_what_is_behind_a_link_whose_target_is_gone",
            "storage.py",
            "if entry.is_symlink() and os.path.lexists(entry.path):",
            "if False:",
        ),
        Promise(
            "A changed document that is rejected keeps its old chunks.",
            "integration/corpus/test_corpus_run.py::TestRejects::test_a_changed_document_that_is_rejected_keeps_its_old_chunks",
            "corpus/tables.py",
            'as_it_is(f"action = {REJECTED}", was)',
            'without_chunks(f"action = {REJECTED}")',
        ),
        Promise(
            "Documents that the source no longer has are removed only with `prune`.",
            "integration/corpus/test_corpus_run.py::TestNextRun::test_changed_new_and_vanished",
            "corpus/tables.py",
            "    if prune:\n",
            "    if True:\n",
        ),
        Promise(
            "Rows of other documents that another program adds to `chunks` are kept, also after OPTIMIZE.",
            "integration/corpus/test_corpus_tables.py::test_rows_of_other_programs_are_kept",
            "corpus/tables.py",
            "OR {unknown} AND id IN (SELECT id FROM lost)",
            "OR {unknown}",
        ),
        Promise(
            "Another configuration without `full_refresh` is an error.",
            "integration/corpus/test_corpus_run.py::TestNextRun::test_another_configuration_is_an_error_that_names_it",
            "corpus/run.py",
            "check_table_options(tables.options, corpus, corpus.output)",
            "pass",
        ),
        Promise(
            "`on_truncated='reject'` rejects a document that its chunks do not cover.",
            "integration/corpus/test_corpus_run.py::TestRejects::test_truncated_is_a_warning_or_a_reject",
            "corpus/parts.py",
            "if checked.gap is not None and refuse_truncated:",
            "if False:",
        ),
        Promise(
            "A run in which all documents are rejected stops.",
            "integration/corpus/test_corpus_run.py::TestRejects::test_when_all_are_refused_the_run_stops",
            "corpus/pipeline.py",
            "MAX_REJECTED_IN_A_ROW = 25",
            "MAX_REJECTED_IN_A_ROW = 10**9",
        ),
        Promise(
            "A run that has lost its lease writes nothing.",
            "unit/test_unit_lease.py::test_a_holder_that_was_suspended_while_others_came_and_went_has_lost",
            "corpus/lease.py",
            "if newest > number:",
            "if False:",
        ),
    ),
    "Tables and files": (
        Promise(
            "A killed prediction task pays again for the batches in flight at most.",
            "integration/operators/test_operator_tables.py::"
            "test_a_killed_process_pays_again_for_no_more_than_the_batches_in_flight",
            "jobs/prediction_task.py",
            "if store.name in names:",
            "if False:",
        ),
        Promise(
            "Files are written atomically.",
            "unit/test_unit_storage.py::test_nothing_partial_is_ever_visible",
            "storage.py",
            '    temporary = target.with_name(f".{target.name}.{os.getpid()}.{os.urandom(4).hex()}.part")\n',
            "    temporary = target\n",
        ),
        Promise(
            "No key is read as a version of another one.",
            "integration/stores/test_stores_removal.py"
            "::test_a_key_that_looks_like_a_version_is_not_that_of_its_neighbour",
            "storage.py",
            '    split = getattr(fs, "split_path", None)\n',
            "    split = None\n",
        ),
        Promise(
            "A document is never read from two versions of its file.",
            "unit/test_unit_readers.py::test_an_object_that_is_replaced_while_it_is_read_is_a_reject",
            "storage.py",
            "        if _version(path.info()) != _version(info):\n",
            "        if False:\n",
        ),
        Promise(
            "Two writers cannot create the same version of a table.",
            "unit/test_delta_log.py::test_a_version_has_one_owner",
            "storage.py",
            "                    return temporary.stat().st_nlink > 1\n",
            "                    return True\n",
        ),
        Promise(
            "A removal of a file with another deletion vector leaves the file in the table.",
            "unit/test_delta_log.py::test_a_removal_of_another_vector_leaves_the_file",
            "delta/log.py",
            "if file.path in self._files and self._files[file.path].key == file.key:",
            "if file.path in self._files:",
        ),
        Promise(
            "A table with unknown features is refused.",
            "unit/test_delta_log.py::test_tables_that_cannot_be_read",
            "delta/log.py",
            '    if unknown:\n        raise InputError(\n            f"{table.uri} needs Delta features',
            '    if False:\n        raise InputError(\n            f"{table.uri} needs Delta features',
        ),
        Promise(
            "Cleanup keeps what a version within the retention needs.",
            "unit/test_delta_log.py::test_vacuum_keeps_what_a_version_within_the_retention_needs",
            "delta/cleanup.py",
            "(kept if young else expired).update",
            "expired.update",
        ),
    ),
}


def every() -> list[Promise]:
    return [promise for promises in PROMISES.values() for promise in promises]


def page() -> str:
    lines = [
        "# Promises",
        "",
        "Guarantees of the package, each with the test that fails if it is broken. Mutation testing verifies this:",
        "`make promises` breaks each promise by one change of the source in a copy of the repository, and expects",
        "its test to fail. The list is in `dev/promises.py`, which writes this page.",
    ]
    for title, promises in PROMISES.items():
        lines += ["", f"## {title}", "", "| promise | test | broken in |", "| --- | --- | --- |"]
        for one in promises:
            file, _, name = one.test.partition("::")
            lines.append(f"| {one.text} | `{file}` `{name}` | `{one.module}` |")
    return "\n".join([*lines, ""])


def mutate(promise: Promise, root: Path) -> str:
    """
    Break a promise in a copy of the repository.

    :return: the source as it was.
    """
    path = root / PACKAGE / promise.module
    source = path.read_text()
    if source.count(promise.find) != 1:
        raise ValueError(
            f"{promise.module} has {promise.find!r} {source.count(promise.find)} times, not once"
        )
    path.write_text(source.replace(promise.find, promise.mutant))
    return source


def killed(promise: Promise, root: Path) -> tuple[bool, float]:
    """Whether the test fails with the mutant, and seconds."""
    before, began = mutate(promise, root), time.monotonic()
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", f"tests/{promise.test}"]
    environment = {**os.environ, "PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(
            command, cwd=root, env=environment, capture_output=True, text=True, timeout=TIMEOUT, check=False
        )
        # 1: tests failed. 2 to 5: none was run.
        return done.returncode == 1, time.monotonic() - began
    except subprocess.TimeoutExpired:
        return True, time.monotonic() - began
    finally:
        (root / PACKAGE / promise.module).write_text(before)


def prove(promises: list[Promise]) -> bool:
    """Run every mutant, and print which survive."""
    with tempfile.TemporaryDirectory(prefix="promises-") as folder:
        copies: SimpleQueue[Path] = SimpleQueue()
        for number in range(COPIES):
            root = Path(folder) / str(number)
            for name in _COPIED:
                source = REPOSITORY / name
                if source.is_dir():
                    shutil.copytree(source, root / name, ignore=shutil.ignore_patterns("__pycache__"))
                else:
                    shutil.copy(source, root / name)
            copies.put(root)

        def one(promise: Promise) -> bool:
            root = copies.get()
            try:
                found, seconds = killed(promise, root)
            finally:
                copies.put(root)
            print(f"{'killed  ' if found else 'SURVIVED'} {seconds:5.1f} s  {promise.text}", flush=True)
            return found

        with ThreadPoolExecutor(COPIES) as pool:
            found = list(pool.map(one, promises))
    print(f"{sum(found)} of {len(found)} mutants were killed.")
    return all(found)


def main() -> int:
    """1 when a mutant survives."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="write docs/promises.md")
    parser.add_argument("words", nargs="*", help="only promises with these words")
    options = parser.parse_args()
    if options.write:
        PAGE.write_text(page())
        return 0
    return 0 if prove([one for one in every() if all(word in one.text for word in options.words)]) else 1


if __name__ == "__main__":
    sys.exit(main())
