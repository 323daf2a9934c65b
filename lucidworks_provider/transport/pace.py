# SPDX-License-Identifier: Apache-2.0
"""
How many requests a second an application takes, learned from its refusals.

The limit stands in the customer's contract and nowhere else, so it is found out. A decision without a clock: times
are handed in, :mod:`lucidworks_provider.transport.turns` performs it.

==================  =============================================================================================
state               what may be sent
==================  =============================================================================================
free                everything: no 429 has come yet, and only connections bound it
held                nothing until the ``Retry-After`` of a 429 is over (or an exponential pause, where none came)
asking              nothing: where the fleet shares its pauses (:mod:`lucidworks_provider.sharing.pause`), one process
                    of it may probe, and the others wait for what it hears
probing             one request; the others wait for its answer, so a storm draws one request each pause
paced               ``rate`` requests a second, evenly
==================  =============================================================================================

*What a refusal says.* When a token bucket refuses, it is empty. It was empty at the refusal before as well, so what
it has accepted in between, divided by the time in between, is the rate at which it fills: exactly, unless it was full
at some time. Were it full at the time s, it had a second's worth of tokens then (the usual burst), and what it has
accepted since s was (time since s + 1 second) times the rate. The largest of all these quotients is the estimate, and
is never above the truth. What was sent last is never below it, or nothing would have been refused; and where not a
bucket is the limit but a window of time, the truth is close to that. So the rate goes on at the lower of both, comes
back to two thirds of the way between them within half a minute, and only then goes on slowly beyond.

*Two refusals at once* may be a limit that was lowered, or a window that a pause has emptied, which looks the same. So
the first one too early costs a tenth; one after the other costs more each time.

*A limit that was raised* shows in the absence of refusals: after half a minute the rate grows, by a share that
doubles every four seconds. *Little to do* shows in turns that nobody takes: then the rate stays what it is.

Simulated for buckets and windows, latencies and several processes in ``tests/unit/test_unit_pace.py``.
"""

from __future__ import annotations

from dataclasses import dataclass

from lucidworks_provider.transport import retry

# Of the pause: several processes that were refused together do not come back together.
SPREAD = 0.1
# Requests a second after a first refusal that may be about somebody else's requests.
FIRST_RATE = 20.0
# Of so many refusals together, those are about our own requests. The rate then is what was accepted, but other
# processes may have been quicker: at least this, and if that is too much the next refusals say so.
STORM, LEAST_FIRST_RATE = 3, 4.0
SLOWEST = 1 / 60
# Seconds of a bucket's burst, if the pauses are not longer: so much the usual ones hold.
BURST = 1.0
# Seconds in which a turn that was late can be made up for; more would be a burst that a window refuses.
SLACK = 0.1
# Seconds until the rate grows beyond what is known: with an estimate, with a first one, and without one.
SURE, NEARLY_SURE, UNSURE = 30.0, 10.0, 3.0
# Requests at least, so that refusals stay below two in a hundred however low the rate, but not so many seconds.
REQUESTS_BETWEEN, LONGEST_BETWEEN = 100.0, 120.0
# After long pauses a refusal costs more, so it is risked less often; but what changed has to be found, too.
LONGEST_SURE = 600.0
# How near to the rate that was refused it comes back.
NEARNESS = 0.7
# Growth a second, the time in which it doubles, and where that ends.
GROWTH, DOUBLING, FASTEST_GROWTH = 0.0007, 4.0, 0.3
# The same where next to nothing is known.
QUICK_DOUBLING = 1.0
# Seconds of sending after which a refusal is no surprise, and what is left of the rate after surprises in a row.
EARLY = 5.0
SURPRISES = (0.9, 0.8, 0.65, 0.5)
# Never above this share of a rate that was refused.
BELOW = 0.98
# Whoever leaves more than this share of the turns is not held up by the rate; told by the last seconds.
IDLE_SHARE, IDLE_SECONDS = 0.15, 0.6
# Seconds without a request after which is looked again whether the fleet pauses: who sends all the time hears it from
# the service, and who looks all the time costs Airflow's database more than it spares the service.
LOOK_AGAIN = 5.0
# A probe may be a request that takes its time; a 429 takes none.
PROBE_PATIENCE = 2.0
# How often what was sent is noted, seconds, and how many notes are kept at most.
NOTE_EVERY, NOTES = 0.25, 64


@dataclass(frozen=True, slots=True)
class Learned:
    """
    What is known of an application's limit, for people.

    :param rate: requests a second at the moment, or None as long as nothing was refused.
    :param refusals: answers with the status 429.
    :param held: seconds in which nothing could be sent.
    """

    rate: float | None
    refusals: int
    held: float


class Pace:
    """
    One application's requests; not for several threads at once, but for :meth:`sent` while it is ``free``.

    A request is sent after :meth:`wait` has said 0 and nothing is to be asked; :meth:`sent` gives it a ticket, with
    which its answer is told.

    :param shared: whether there are processes to agree with.
    """

    def __init__(self, *, shared: bool = False) -> None:
        # Until the first 429.
        self.free = True
        # From a 429 until a request is accepted; at other times only refusals need to be told.
        self.holding = False
        self.rate: float | None = None
        self.refusals = 0
        self.held = 0.0
        self._shared = shared
        # Whether this process may probe.
        self._permitted = False
        # Counts the pauses: an answer to a request from before one says nothing new.
        self._epoch = 0
        self._until = 0.0
        self._pause = 0.0
        self._in_a_row = 0
        self._storm = 0
        self._refused_at = 0.0
        self._probe_at: float | None = None
        # When the next turn is, when the last one was, and seconds of turns that nobody took.
        self._next = 0.0
        self._last = -LOOK_AGAIN
        self._idle = 0.0
        # Since the last pause: its length, seconds of sending at full rate, where the rate began and where it goes.
        self._gap = BURST
        self._active = 0.0
        self._start = self._top = 0.0
        self._sure = UNSURE
        self._surprises = 0
        # What was sent by when, without what was refused.
        self._sent = 0
        self._notes: list[tuple[float, int]] = []
        self._note_every = NOTE_EVERY

    @property
    def learned(self) -> Learned:
        """For a progress line or a report."""
        return Learned(self.rate, self.refusals, self.held)

    def wait(self, now: float) -> float:
        """Seconds until the next request may be sent; 0 for at once. To be asked again after each answer."""
        if not self.holding:
            return 0.0 if self.rate is None else max(0.0, self._next - now)
        if self._probe_at is None:
            return max(0.0, self._until - now)
        return max(0.0, self._probe_at + self.claim - now)

    def knows(self, now: float) -> bool:
        """Whether the fleet has been looked at of late, or need not be."""
        return not (self._shared and self.free) or now - self._last < LOOK_AGAIN

    def asks(self, now: float) -> bool:
        """Whether the fleet is to be asked before anything is sent; :meth:`agreed` takes its answer."""
        if self.holding:
            return self._shared and not self._permitted
        return not self.knows(now)

    @property
    def claim(self) -> float:
        """For how many seconds a probe keeps everybody else from probing."""
        return max(PROBE_PATIENCE, self._pause)

    def agreed(self, seconds: float | None, now: float) -> None:
        """
        Hear from the fleet.

        :param seconds: for which it pauses; 0 for not at all, or for leave to probe; None if another's probe was
            accepted.
        """
        if self.free:
            self._last = now
            if seconds:
                self.free, self._refused_at = False, now
                self._hold(now, seconds, seconds)
        elif not self.holding:
            return
        elif seconds is None:
            # As if the probe had been this process's.
            self._sent += 1
            self._go_on(now)
        elif seconds:
            self._until = now + seconds
        else:
            self._permitted = True

    def sent(self, now: float) -> int:
        """A request goes out; the ticket for its answer."""
        if not self._notes or now - self._notes[-1][0] >= self._note_every:
            self._note(now)
        self._sent += 1
        if self.holding:
            self._probe_at, self._permitted = now, False
        elif self.rate is not None:
            self._grow(now, self.rate)
            self._next = max(self._next, now - SLACK) + 1 / self.rate
        self._last = now
        return self._epoch

    def accepted(self, ticket: int, now: float) -> bool:
        """An answer other than 429; whether it has ended a pause."""
        ends = self.holding and ticket == self._epoch
        if ends:
            self._go_on(now)
        return ends

    def lost(self, ticket: int) -> None:
        """No answer came. If it was the probe, the next one is."""
        if self.holding and ticket == self._epoch:
            self._probe_at = None

    def refused(self, ticket: int, now: float, asked: float | None, spread: float) -> float | None:
        """
        A 429.

        :param asked: seconds of its ``Retry-After``, if it had one.
        :param spread: a random number from 0 to 1.
        :return: seconds of the pause that begins, if one does.
        """
        self.free = False
        self.refusals += 1
        self._sent -= 1
        if ticket != self._epoch:
            self._storm += 1
            if self.holding and asked:
                self._until = max(self._until, now + min(asked, retry.LONGEST_RETRY_AFTER))
            return None
        if not self.holding:
            self._refused_at, self._in_a_row, self._storm = now, 0, 0
        self._in_a_row += 1
        pause = asked or min(retry.LONGEST_WAIT, retry.FIRST_WAIT * 2.0 ** (self._in_a_row - 1))
        pause = min(pause, retry.LONGEST_RETRY_AFTER)
        self._hold(now, pause, pause * (1 + SPREAD * spread))
        return pause

    def _hold(self, now: float, pause: float, seconds: float) -> None:
        self._pause, self._until = pause, now + seconds
        self._epoch += 1
        self.holding, self._probe_at, self._permitted = True, None, False

    def _grow(self, now: float, rate: float) -> None:
        """Count a turn, and the rate's growth if turns are what is waited for."""
        passed, left = now - self._last, now - SLACK - self._next
        self._idle = min(IDLE_SECONDS, max(0.0, self._idle + max(0.0, left) - IDLE_SHARE * passed))
        if self._idle > IDLE_SECONDS / 2:
            return
        passed = min(passed, 2 / rate)
        self._active += passed
        if self._active < self._sure:
            way_left = (1 - self._active / self._sure) ** 3
            self.rate = self._top - (self._top - self._start) * way_left
        else:
            doublings = (self._active - self._sure) / (QUICK_DOUBLING if self._sure == UNSURE else DOUBLING)
            self.rate = rate * (1 + passed * min(FASTEST_GROWTH, GROWTH * 2 ** min(doublings, 60.0)))

    def _go_on(self, now: float) -> None:
        """The probe was accepted."""
        self._learn(self._estimate())
        rate = self.rate = self._start
        self._gap = now - self._refused_at
        self.held += self._gap
        self._active = 0.0
        probe_at = self._probe_at if self._probe_at is not None else now
        self._next, self._last = max(now, probe_at + 1 / rate), now
        self.holding, self._probe_at = False, None
        # The probe is of the time after the refusal.
        self._notes, self._note_every = [(self._refused_at, self._sent - 1)], NOTE_EVERY

    def _learn(self, estimate: float) -> None:
        if self.rate is None:
            ours = self._storm >= STORM
            self._start = self._top = max(LEAST_FIRST_RATE if ours else FIRST_RATE, estimate)
            self._sure = NEARLY_SURE if ours else UNSURE
            return
        rate, long = self.rate, max(1.0, self._gap)
        if self._active < EARLY * long:
            estimate = max(estimate, rate * SURPRISES[min(self._surprises, len(SURPRISES) - 1)])
            self._surprises += 1
        else:
            estimate = max(estimate, rate * SURPRISES[-1])
            self._surprises = 0
        self._start = max(SLOWEST, min(estimate, rate * BELOW))
        self._top = self._start + (max(rate, SLOWEST) - self._start) * NEARNESS
        between = min(LONGEST_BETWEEN, REQUESTS_BETWEEN / self._start)
        self._sure = min(LONGEST_SURE, max(SURE * long, between))

    def _estimate(self) -> float:
        """The rate of a bucket that was empty when it refused; see the module's docstring."""
        burst, sent = max(BURST, self._gap), self._sent - 1
        best = 0.0
        for position, (at, before) in enumerate(self._notes):
            # The first note is the refusal before, when the bucket was empty.
            seconds = self._refused_at - at + (0.0 if position == 0 and self.rate is not None else burst)
            if seconds > 0:
                best = max(best, (sent - before) / seconds)
        return best

    def _note(self, now: float) -> None:
        self._notes.append((now, self._sent))
        if len(self._notes) >= NOTES:
            # The longer ago, the less it matters when exactly.
            del self._notes[1::2]
            self._note_every *= 2
