# SPDX-License-Identifier: Apache-2.0
"""
Encryption of a shared token under a key derived from the client secret.

Whoever can read the store but does not have the secret cannot use the token, and a rotated secret turns the
old value into a miss. The primitives are those of the ``cryptography`` package, which Airflow brings.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

from lucidworks_provider.client.auth.token import AccessToken, TokenIdentity

if TYPE_CHECKING:
    from cryptography.fernet import Fernet


class TokenCipher:
    """Turns a token into text for a store and back."""

    def __init__(self, identity: TokenIdentity, client_secret: str) -> None:
        self._salt = identity.digest.encode()
        self._secret = client_secret.encode()
        self._derived: Fernet | None = None

    @property
    def _fernet(self) -> Fernet:
        # Loaded and derived at the first use, which is in a thread: making a cipher costs an event loop nothing.
        # Without a lock, which a fork could leave locked: deriving twice does no harm.
        if self._derived is None:
            self._derived = self._derive()
        return self._derived

    def _derive(self) -> Fernet:
        from cryptography.fernet import Fernet
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF

        # A client secret is random and long, so a fast derivation is enough; the identity as salt keeps one
        # scope's ciphertext from being passed off as another's.
        derive = HKDF(
            algorithm=SHA256(), length=32, salt=self._salt, info=b"airflow-provider-lucidworks token v1"
        )
        return Fernet(base64.urlsafe_b64encode(derive.derive(self._secret)))

    def seal(self, token: AccessToken) -> str:
        """Encrypt and authenticate."""
        return self._fernet.encrypt(token.to_json().encode()).decode()

    def open(self, text: str) -> AccessToken | None:
        """Decrypt; None for anything that this secret has not sealed."""
        from cryptography.fernet import InvalidToken

        try:
            return AccessToken.from_json(self._fernet.decrypt(text.encode()).decode())
        except (InvalidToken, ValueError):
            return None
