# SPDX-License-Identifier: Apache-2.0
"""An identity server that issues numbered tokens, for tests of the token protocol without sockets."""

from __future__ import annotations

import time

from lucidworks_provider.client.auth.token import TokenResponse


class IdentityServer:
    def __init__(
        self, seconds: float = 0.0, lifetime: float = 3600.0, clock_off: float | None = None
    ) -> None:
        self.asked = 0
        self.seconds = seconds
        self.lifetime = lifetime
        self.clock_off = clock_off
        self.error: Exception | None = None
        self.same_token = False

    def __call__(self, single_attempt: bool = False) -> TokenResponse:
        self.asked += 1
        time.sleep(self.seconds)
        if self.error:
            raise self.error
        return TokenResponse(f"token-{1 if self.same_token else self.asked}", self.lifetime, self.time())

    def time(self) -> float | None:
        """The server's clock."""
        return None if self.clock_off is None else time.time() + self.clock_off
