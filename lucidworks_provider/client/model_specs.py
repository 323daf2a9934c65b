# SPDX-License-Identifier: Apache-2.0
"""
Matches existing models and deployments with a spec.

The service has no idempotency key, so what exists is compared with what is requested, field by field:

=================  ==================================================================================
likeness           when
=================  ==================================================================================
``SAME``           every field that is requested is shown, and equal
``UNCERTAIN``      a field is not shown, or is similar to the one requested, in the service's own words
``DIFFERENT``      a field differs
=================  ==================================================================================

An *unanswered POST* is one of this task whose outcome is unknown. A resource is *new* if it may be younger:

=============  ====================================  ============================  ===================
likeness       new since an unanswered POST          new, without a known POST     otherwise
=============  ====================================  ============================  ===================
``SAME``       taken                                 taken                         taken
``UNCERTAIN``  taken if the only new one, else (*)   (*)                           (*)
``DIFFERENT``  (*)                                   (*)                           another one is made
=============  ====================================  ============================  ===================

(*) ``if_ambiguous``: :class:`AmbiguousResourceError` instead of another POST, unless the caller has decided.

Failed and deleted ones are not taken: a retry makes another one.

Source: section 10 of the API reference.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum
from typing import Any, TypeVar
from urllib.parse import unquote

from lucidworks_provider.client.http.messages import check_json, path_segment, scrub
from lucidworks_provider.client.models import (
    Deployment,
    Model,
    Progress,
    deployments_of,
    is_shown,
    merge_deployments,
)
from lucidworks_provider.client.options import check_option, whole
from lucidworks_provider.client.secrets import is_secret_name
from lucidworks_provider.errors import AmbiguousResourceError, InputError

T = TypeVar("T", bound=Model | Deployment)

# The service's clock may be behind ours; this many seconds before a POST still count as since.
_SKEW = 300.0
# Of an error's message.
_LONGEST_VALUE, _MOST_NAMED = 200, 3
_UUID = re.compile(r"[0-9a-f]{8}(?:-?[0-9a-f]{4}){3}-?[0-9a-f]{12}", re.IGNORECASE)


class Likeness(IntEnum):
    """Similarity of an existing resource to a spec."""

    SAME = 0
    UNCERTAIN = 1
    DIFFERENT = 2


@dataclass(frozen=True, slots=True)
class Comparison:
    """
    What is requested compared with what the service shows.

    :param doubts: by field that is not known to be equal: its likeness, and both values in words.
    """

    doubts: Mapping[str, tuple[Likeness, str]]

    @property
    def likeness(self) -> Likeness:
        """The least similar field decides."""
        return max((likeness for likeness, _ in self.doubts.values()), default=Likeness.SAME)

    def __str__(self) -> str:
        return "; ".join(said for _, said in self.doubts.values()) or "all fields are equal"


@dataclass(frozen=True, slots=True)
class UnansweredPost:
    """
    A POST of this task whose outcome is unknown, or that an earlier attempt may have sent.

    :param at: when, in seconds since the epoch.
    :param before: ids that existed before it; None where it is not known whether there was a POST.
    :param creator: our own name, where the service shows it.
    """

    at: float
    before: frozenset[str] | None = None
    creator: str | None = None

    def new(self, candidates: Iterable[T]) -> list[T]:
        """The candidates that may be younger than the POST; of several, those with our name."""
        new = [one for one in candidates if self._is_new(one)]
        return [one for one in new if self.creator and one.created_by == self.creator] or new

    def _is_new(self, one: Model | Deployment) -> bool:
        started = _seconds(one.started)
        if self.before is None:
            return started is not None and started >= self.at - _SKEW
        return one.id not in self.before and (started is None or started >= self.at - _SKEW)


@dataclass(frozen=True, slots=True)
class TrainingSpec:
    """
    The request to train a model; validated when made.

    :param name: to recognise the model by; need not be unique for the service.
    :param model_type: e.g. ``ecommerce-rnn``; the vendor's console lists them.
    :param training_data: addresses of ``catalog`` and ``signals``.
    :param region: where it is trained.
    :param config: the trainer's options, flat, with dots in their names.
    :raises InputError: names the field and what it may be.
    """

    name: str
    model_type: str
    training_data: Mapping[str, Any]
    region: str | None = None
    config: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        _text(self.name, "name")
        _text(self.model_type, "model_type")
        if self.region is not None:
            _text(self.region, "region")
        if not isinstance(self.training_data, Mapping) or not self.training_data:
            raise InputError(
                f"training_data is {self.training_data!r}; give a dictionary with 'catalog' and 'signals'."
            )
        for name, value in self.training_data.items():
            _text(value, f"training_data: {name}")
        _dictionary(self.config, "config")

    def as_json(self) -> dict[str, Any]:
        """The fields as they are sent, without credentials."""
        return _given(
            name=self.name,
            modelType=self.model_type,
            region=self.region,
            trainingData=dict(self.training_data),
            config=None if self.config is None else dict(self.config),
        )

    @property
    def what(self) -> str:
        """For messages."""
        return f"Model {self.name.strip()!r}"

    def compare(self, found: Model | Deployment) -> Comparison:
        """Compare with a model as the service shows it."""
        return _compare(self.as_json(), found.sent)

    def concerns(self, model: Model) -> bool:
        """Whether a model may have this name. Only a custom one has a name, and its id is a UUID."""
        if model.name is None:
            return bool(_UUID.fullmatch(model.id)) and model.model_type != model.id
        return _name_likeness(self.name, model.name) is not Likeness.DIFFERENT


@dataclass(frozen=True, slots=True)
class DeploymentSpec:
    """
    The request to deploy a model; validated when made.

    :param region: where it is to run.
    :param config: free options of the deployment.
    :param min_replicas: at least so many copies.
    :param max_replicas: at most so many.
    :raises InputError: names the field and what it may be.
    """

    model_id: str
    region: str | None = None
    config: Mapping[str, Any] | None = None
    min_replicas: int = 1
    max_replicas: int = 1

    def __post_init__(self) -> None:
        path_segment(self.model_id, "model_id")
        if self.region is not None:
            _text(self.region, "region")
        _dictionary(self.config, "config")
        for name, value in (("min_replicas", self.min_replicas), ("max_replicas", self.max_replicas)):
            object.__setattr__(self, name, check_option(value, name, whole(1)))
        if self.min_replicas > self.max_replicas:
            raise InputError(
                f"min_replicas {self.min_replicas} is above max_replicas {self.max_replicas}; swap them."
            )

    def as_json(self) -> dict[str, Any]:
        """The fields as they are sent."""
        return _given(
            modelId=self.model_id,
            region=self.region,
            config=None if self.config is None else dict(self.config),
            minReplicas=self.min_replicas,
            maxReplicas=self.max_replicas,
        )

    @property
    def what(self) -> str:
        """For messages."""
        return f"Deployment of model {self.model_id}"

    def is_met_by(self, deployment: Deployment) -> bool:
        """Whether a deployment certainly is the one requested, and serves or is about to."""
        alive = deployment.state is not None and deployment.progress in {Progress.READY, Progress.RUNNING}
        return alive and self.compare(deployment).likeness is Likeness.SAME

    def compare(self, found: Model | Deployment) -> Comparison:
        """Compare with a deployment as the service shows it; replicas that it leaves out are the documented 1."""
        return _compare(self.as_json(), {"minReplicas": 1, "maxReplicas": 1} | _shown(found.sent))


def join_deployments(
    model_id: str,
    own: Iterable[Deployment] | None,
    shown: Iterable[Deployment] | None = None,
    every: Iterable[Deployment] | None = None,
) -> tuple[Deployment, ...]:
    """
    The deployments of a model, from responses of which each may leave out some, or some of their fields.

    :param own: the model's own list; None where there is no such list.
    :param shown: what the model itself shows.
    :param every: the customer's list. What shows no model in it counts only if neither of the others is there.
    """
    found: dict[str, Deployment] = {}
    owned = own is not None or shown is not None
    for listed, named in ((own, False), (shown, False), (every, owned)):
        for one in listed or ():
            key, owner = one.id.lower(), (one.model_id or "").lower()
            if key in found:
                found[key] = merge_deployments(found[key], one)
            elif owner == model_id.lower() or (not owner and not named):
                found[key] = one
    if owned:
        return deployments_of(model_id, found.values())
    return tuple(found.values())


def choose(
    asked: TrainingSpec | DeploymentSpec,
    existing: Iterable[T],
    unanswered: UnansweredPost | None = None,
    *,
    if_ambiguous: str = "fail",
) -> T | None:
    """
    The model or deployment to take instead of making another one; see the table above.

    One that is ready goes before one that is not, then the latest.

    :param if_ambiguous: ``fail``, ``reuse`` or ``create``.
    :raises AmbiguousResourceError: one may be the one requested, which cannot be decided.
    """
    alive = [one for one in existing if one.progress in {Progress.READY, Progress.RUNNING}]
    likeness = {one.id: asked.compare(one).likeness for one in alive}
    if same := [one for one in alive if likeness[one.id] is Likeness.SAME]:
        return _best(same)
    new = unanswered.new(alive) if unanswered is not None else []
    sent = unanswered is not None and unanswered.before is not None
    if sent and len(new) == 1 and likeness[new[0].id] is Likeness.UNCERTAIN:
        return new[0]
    doubtful = [one for one in alive if likeness[one.id] is Likeness.UNCERTAIN or one in new]
    if not doubtful or if_ambiguous == "create":
        return None
    if if_ambiguous == "reuse":
        return _best(doubtful)
    named = [
        f"{one.id} ({one.state or 'no state shown'}): {asked.compare(one)}" for one in doubtful[:_MOST_NAMED]
    ]
    more = len(doubtful) - len(named)
    found = "; ".join([*named, f"and {more} more"] if more else named)
    raise AmbiguousResourceError(
        f"{asked.what} may exist already, and the service does not show enough to decide. Found {found}. No "
        "other one was created. Set if_ambiguous='reuse' to use what was found, or 'create' to create another one."
    )


def _best(candidates: Sequence[T]) -> T:
    ready = [one for one in candidates if one.progress is Progress.READY]
    return max(ready or candidates, key=lambda one: one.started or "")


def _compare(asked: Mapping[str, Any], sent: Mapping[str, Any]) -> Comparison:
    doubts = {}
    for name, value in asked.items():
        shown = sent.get(name)
        likeness = _FIELDS.get(name, _likeness)(value, shown)
        if likeness is not Likeness.SAME:
            seen = f"{_in_words(shown)} exists" if is_shown(shown) else "the service does not show it"
            doubts[name] = (likeness, f"{name}: requested {_in_words(value)}, {seen}")
    return Comparison(doubts)


def _likeness(asked: object, shown: object) -> Likeness:
    if not is_shown(shown):
        return Likeness.UNCERTAIN if is_shown(asked) else Likeness.SAME
    if isinstance(asked, Mapping):
        return _mapping_likeness(asked, shown)
    if isinstance(asked, list | tuple):
        alike = isinstance(shown, list | tuple) and len(asked) == len(shown)
        return max(map(_likeness, asked, shown)) if alike else Likeness.DIFFERENT  # type: ignore[call-overload]
    if isinstance(asked, str) and isinstance(shown, str):
        return _text_likeness(asked.strip(), shown.strip())
    # `vectorSize` is a text in one example and a number in another; so may others be.
    return Likeness.SAME if _plain(asked) == _plain(shown) else Likeness.DIFFERENT


def _mapping_likeness(asked: Mapping[str, Any], shown: object) -> Likeness:
    """An option more in a configuration that is shown is another configuration."""
    if not isinstance(shown, Mapping):
        return Likeness.DIFFERENT
    return max(
        (
            _likeness(value, shown.get(name)) if name in shown or not is_shown(value) else Likeness.DIFFERENT
            for name, value in asked.items()
            # What looks like a key is not kept of a response.
            if value is not None and not is_secret_name(name)
        ),
        default=Likeness.SAME,
    )


def _text_likeness(asked: str, shown: str) -> Likeness:
    if asked == shown:
        return Likeness.SAME
    if "/" not in asked + shown:
        # Words of the service: `ecommerce-rnn` may come back as `ECOMMERCE_RNN`. A path has a case.
        return Likeness.SAME if _plain_word(asked) == _plain_word(shown) else Likeness.DIFFERENT
    if asked.rstrip("/") == shown.rstrip("/"):
        return Likeness.SAME
    (scheme, *one), (other_scheme, *other) = _address(asked), _address(shown)
    same = one == other if scheme == other_scheme else _objects(scheme, *one) & _objects(other_scheme, *other)
    return Likeness.UNCERTAIN if same else Likeness.DIFFERENT


def _address(text: str) -> tuple[str, str, str]:
    """Scheme, host or bucket, and path."""
    scheme, _, rest = unquote(re.split(r"[?#]", text)[0]).rstrip("/").rpartition("://")
    host, _, path = rest.partition("/")
    return scheme.lower(), host, path


def _objects(scheme: str, host: str, path: str) -> set[str]:
    """
    Which ``bucket/path`` an address may name.

    ``gs://bucket/x`` may come back as ``https://storage.googleapis.com/bucket/x`` or ``https://bucket.host/x``.
    """
    if scheme not in {"http", "https"}:
        return {f"{host.partition('@')[0]}/{path}".rstrip("/")}
    return {path, f"{host.partition('.')[0]}/{path}".rstrip("/")}


def _name_likeness(asked: object, shown: object) -> Likeness:
    """A name is free text, so one that differs in case may be another one."""
    likeness = _likeness(asked, shown)
    if likeness is Likeness.SAME and str(asked).strip() != str(shown).strip():
        return Likeness.UNCERTAIN
    return likeness


def _region_likeness(asked: object, shown: object) -> Likeness:
    """``us`` may come back as ``us-east1``."""
    likeness = _likeness(asked, shown)
    one, other = (set(_plain_word(str(region)).split("-")) for region in (asked, shown))
    if likeness is Likeness.DIFFERENT and (one <= other or other <= one):
        return Likeness.UNCERTAIN
    return likeness


def _id_likeness(asked: object, shown: object) -> Likeness:
    """UUIDs have no case."""
    return _likeness(str(asked).lower(), str(shown).lower() if is_shown(shown) else shown)


_FIELDS = {"name": _name_likeness, "region": _region_likeness, "modelId": _id_likeness}


def _plain_word(text: str) -> str:
    return re.sub(r"[-_\s]+", "-", text.casefold())


def _plain(value: object) -> object:
    said = str(value).strip().lower()
    try:
        return said if isinstance(value, bool) else float(said)
    except ValueError:
        return said


def _shown(sent: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in sent.items() if is_shown(value)}


def _in_words(value: object) -> str:
    said = json.dumps(value, ensure_ascii=False, default=str)
    return scrub(said if len(said) <= _LONGEST_VALUE else f"{said[:_LONGEST_VALUE]}…")


def _seconds(moment: str | None) -> float | None:
    """Since the epoch; None for what is no date-time, or has no time zone."""
    try:
        read = datetime.fromisoformat(moment or "")
    except ValueError:
        return None
    return read.timestamp() if read.tzinfo else None


def _given(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _text(value: object, what: str) -> None:
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{what} is {value!r}; give a text.")


def _dictionary(value: object, what: str) -> None:
    if value is not None and not isinstance(value, Mapping):
        raise InputError(f"{what} is {value!r}; give a dictionary.")
    check_json(value, what)
