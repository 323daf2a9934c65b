# SPDX-License-Identifier: Apache-2.0
"""
Encryption of a shared token under a key derived from the client secret.

Whoever can read the store but does not have the secret cannot use the token, and a rotated secret turns the
old value into a miss. The primitives are those of the ``cryptography`` package, which Airflow brings.
"""

from __future__ import annotations

import base64

from lucidworks_provider.auth.token import AccessToken, TokenIdentity


class TokenCipher:
    """Turns a token into text for a store and back."""

    def __init__(self, identity: TokenIdentity, client_secret: str) -> None:
        # Imported here: DAG files that only name an operator never get to it.
        from cryptography.fernet import Fernet
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF

        # A client secret is random and long, so a fast derivation is enough; the identity as salt keeps one
        # scope's ciphertext from being passed off as another's.
        derive = HKDF(
            algorithm=SHA256(),
            length=32,
            salt=identity.digest.encode(),
            info=b"airflow-provider-lucidworks token v1",
        )
        self._fernet = Fernet(base64.urlsafe_b64encode(derive.derive(client_secret.encode())))

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
