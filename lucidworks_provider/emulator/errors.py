# SPDX-License-Identifier: Apache-2.0
"""Refusals. No error body is documented anywhere, so all of them are assumptions [A] (section 11)."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

from starlette.responses import JSONResponse, Response


class ApiError(Exception):
    """A response that is not 200, in the shape ``{"status", "error", "message"}`` [A]."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = headers

    def body(self) -> dict[str, object]:
        return {"status": self.status, "error": HTTPStatus(self.status).phrase, "message": self.message}

    def response(self) -> Response:
        return JSONResponse(self.body(), self.status, self.headers)


class OAuthError(ApiError):
    """A response of the token endpoint, in the shape of RFC 6749 section 5.2 [A]."""

    def __init__(
        self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(status, message, headers)
        self.code = code

    def body(self) -> dict[str, object]:
        return {"error": self.code, "error_description": self.message}
