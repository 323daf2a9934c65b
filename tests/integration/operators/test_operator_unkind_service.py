# SPDX-License-Identifier: Apache-2.0
"""What a proxy or gateway does to answers costs no job twice."""

from pathlib import Path

import pytest
from operator_service import Service, by_jobs, direct, new_context, through_triggers

from lucidworks_provider.errors import ContentEncodingError, LucidworksError

TEXTS = ["One.", "Two.", "Three."]


@pytest.fixture
def service(service: Service) -> Service:
    service.settings(retrieved="payload")
    return service


@pytest.mark.parametrize("encoding", ["br", "zstd"])
@pytest.mark.parametrize("deferrable", [True, False])
def test_an_encoding_that_was_not_accepted_ends_the_wait_and_keeps_the_jobs(
    service: Service, tmp_path: Path, encoding: str, deferrable: bool
) -> None:
    context = new_context()
    make = lambda: by_jobs(TEXTS, tmp_path / "p.jsonl", batch_size=1, deferrable=deferrable)  # noqa: E731
    service.fault("poll-prediction", encoding, times=1000)
    with pytest.raises(LucidworksError, match=f"Content-Encoding '{encoding}'") as caught:
        through_triggers(make, context)
    assert not caught.value.retryable
    assert len(service.calls("poll-prediction")) <= 2 * len(TEXTS)
    kept = sorted(one.read_bytes() for one in tmp_path.glob(f"_p.jsonl.*.{encoding}"))
    assert len(kept) == len(set(kept)) == len(TEXTS)
    assert f".{encoding}" in str(caught.value)
    service.heal()
    assert through_triggers(make, context)["predictions"] == 3
    assert set(service.submitted().values()) == {1}


@pytest.mark.parametrize("encoding", ["br", "zstd"])
def test_no_batch_is_paid_for_twice(service: Service, tmp_path: Path, encoding: str) -> None:
    service.fault("predict", encoding, times=1000)
    with pytest.raises(ContentEncodingError, match=f"Content-Encoding '{encoding}'"):
        direct(TEXTS, batch_size=1, concurrency=1, result_path=str(tmp_path / "p.jsonl")).execute(
            new_context()
        )
    assert len(service.calls("predict")) == 1
    assert len(list(tmp_path.glob(f"_p.jsonl.*.{encoding}"))) == 1, "what was paid for is kept"


@pytest.mark.parametrize("encoding", ["br", "zstd"])
def test_the_only_copy_of_a_jobs_id_is_kept(service: Service, tmp_path: Path, encoding: str) -> None:
    service.fault("submit-prediction", encoding)
    with pytest.raises(ContentEncodingError, match=f"Input 0: .*Content-Encoding '{encoding}'") as caught:
        by_jobs(TEXTS, tmp_path / "p.jsonl", batch_size=1).execute(new_context())
    [kept] = tmp_path.glob(f"_p.jsonl.*.{encoding}")
    assert kept.stat().st_size
    assert str(kept) in str(caught.value)
