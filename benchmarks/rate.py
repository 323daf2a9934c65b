# SPDX-License-Identifier: Apache-2.0
"""
The rate limiter in a simulated service, compared with botocore's adaptive mode and a plain loop.

::

    python -m benchmarks.rate           # five seeds, four minutes each
    python -m benchmarks.rate --short   # two seeds, two minutes each

Shares of the limit begin after the first quarter of the time. Times are relative to the same work without 429s.
Each figure is the median of the seeds, with the worst in brackets.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.harness import command_line, print_heads, print_row

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "unit"))

from rate_limit_world import (  # type: ignore[import-not-found]
    Bucket,
    Fixed,
    Limit,
    Shedding,
    Sliding,
    Unlimited,
    World,
)

from lucidworks_provider.client.http.rate_limiter import AdaptiveRateLimiter

LATENCY = (0.02, 0.03)
LimitOf = Callable[[int], Limit]

NOISE = {f"429 at random, {share:.1%}": share for share in (0.005, 0.02, 0.05)}


def bucket_and_noise(seed: int) -> Limit:
    """A token bucket behind a gateway that refuses 2 % of the requests."""
    return Shedding(0.02, random.Random(seed), Bucket(50))


def unseeded(kind: Callable[[float], Limit], rate: float, _: int) -> Limit:
    """A limit without randomness."""
    return kind(rate)


# The limit by seed, the processes that share it, and whether `share_via` declares that the process is alone.
LIMITS: dict[str, tuple[LimitOf, int, bool]] = {
    **{
        f"{name}, {rate} a second": (partial(unseeded, kind, rate), 1, False)
        for name, kind in (
            ("bucket", Bucket),
            ("sliding window of 1 s", Sliding),
            ("fixed window of 1 s", Fixed),
        )
        for rate in (5, 20, 200)
    },
    "bucket of 50 and 2 % at random": (bucket_and_noise, 1, True),
    "two processes, bucket of 50": (partial(unseeded, Bucket, 50), 2, False),
    "eight processes, bucket of 50": (partial(unseeded, Bucket, 50), 8, False),
}


class Adaptive:
    """The limiter of botocore's adaptive mode, with the simulation's clock."""

    def __init__(self) -> None:
        from botocore.retries import adaptive, bucket, throttling  # type: ignore[import-untyped]

        self.now = 0.0
        self.current_time = lambda: self.now
        self.sleep = lambda _: None
        self._bucket = bucket.TokenBucket(max_rate=1, clock=self)
        self._enabled = self._throttled = False
        self._limiter = adaptive.ClientRateLimiter(
            rate_adjustor=throttling.CubicCalculator(starting_max_rate=0, start_time=0.0),
            rate_clocker=adaptive.RateClocker(self),
            token_bucket=self._bucket,
            throttling_detector=self,
            clock=self,
        )

    def is_throttling_error(self, **_: Any) -> bool:
        return self._throttled

    def wait(self, now: float) -> float:
        self.now = now
        if not self._enabled:
            return 0.0
        self._bucket._refill()
        return max(0.0, self._bucket._sleep_amount(1) + 1e-9) if self._bucket.available_capacity < 1 else 0.0

    def must_ask(self) -> bool:
        return False

    def agreed(self, seconds: float | None, now: float) -> None:
        pass

    def sent(self, now: float) -> int:
        self.now = now
        self._limiter.on_sending_request(None)
        return 0

    def accepted(self, permit: int, now: float) -> bool:
        self.now, self._throttled = now, False
        self._limiter.on_receiving_response()
        return False

    def refused(self, permit: int, now: float, retry_after: float | None, jitter: float) -> float | None:
        self.now, self._throttled, self._enabled = now, True, True
        self._limiter.on_receiving_response()
        return None


def noise(share: float, limiter: Callable[[], Any], seeds: int, work: int) -> str:
    """The time of a fixed amount of work with random 429s, relative to that without."""
    times = []
    for seed in range(seeds):
        world = partial(World, latency=LATENCY, connections=64, work=work, seed=seed)
        undisturbed = world(Shedding(0.0, random.Random(seed)), limiter=Unlimited).run(1e6).done_at
        occupies = limiter is Unlimited
        shed = world(Shedding(share, random.Random(seed)), limiter=limiter, occupies=occupies)
        times.append(shed.run(100 * undisturbed).done_at / undisturbed)
    return f"{median(times):.2f} x ({max(times):.2f})"


def limit(make: LimitOf, processes: int, limiter: Callable[[], Any], seeds: int, seconds: float) -> str:
    """Used share of the limit, share of 429s, and the smallest share of a process relative to its fair share."""
    used, refused, least = [], [], []
    for seed in range(seeds):
        world = World(
            make(seed), processes=processes, latency=LATENCY, connections=16, seed=seed, limiter=limiter
        )
        world.run(seconds)
        used.append(world.used(seconds / 4, seconds))
        refused.append(world.refused(seconds / 4, seconds))
        least.append(world.least(seconds / 4, seconds))
    text = f"{median(used):.1%} ({min(used):.1%}), 429s {median(refused):.1%} ({max(refused):.1%})"
    return text if processes == 1 else f"{text}, least {median(least):.2f} ({min(least):.2f})"


def main() -> None:
    short = command_line(__doc__, packages=["botocore"], short=False).short
    seeds, seconds, work = (2, 120.0, 20_000) if short else (5, 240.0, 40_000)
    try:
        Adaptive()
        botocore: Callable[[], Any] | None = Adaptive
    except ImportError:
        botocore = None
    print_heads("regime", "this limiter", "botocore, adaptive", "plain loop")
    for name, share in NOISE.items():
        limiters = AdaptiveRateLimiter, botocore, Unlimited
        print_row(name, *(noise(share, one, seeds, work) if one else "not installed" for one in limiters))
    for name, (make, processes, alone) in LIMITS.items():
        ours = limit(make, processes, partial(AdaptiveRateLimiter, alone=alone), seeds, seconds)
        theirs = limit(make, processes, botocore, seeds, seconds) if botocore else "not installed"
        print_row(name, ours, theirs, "")


if __name__ == "__main__":
    main()
