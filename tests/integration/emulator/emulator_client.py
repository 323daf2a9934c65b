# SPDX-License-Identifier: Apache-2.0
"""A plain caller of the emulator, written from the vendor's documentation with requests alone."""

import time
from typing import Any, Self

import requests

from lucidworks_provider.emulator.server import RunningEmulator

AUTH = "ausao8uveaPmyhv0v357"
PREDICT, MODEL = "machinelearning.predict", "machinelearning.model"
HEADERS = {
    "Accept": "application/json",
    "Cache-Control": "no-cache",
    "Content-Type": "application/x-www-form-urlencoded",
}


class Caller:
    """One client of one emulator."""

    def __init__(
        self, emulator: RunningEmulator, *, client: tuple[str, str] = ("demo-client", "demo-secret")
    ) -> None:
        self.emulator = emulator
        self.client = client
        self.token = ""

    def ask_token(self, scope: str = PREDICT, **changes: Any) -> requests.Response:
        options: dict[str, Any] = {
            "params": {"scope": scope, "grant_type": "client_credentials"},
            "auth": self.client,
            "headers": HEADERS,
            **changes,
        }
        path = options.pop("path", f"/oauth2/{AUTH}/v1/token")
        return requests.post(self.emulator.url + path, timeout=20, **options)

    def log_in(self, scope: str = PREDICT) -> Self:
        self.token = self.ask_token(scope).json()["access_token"]
        return self

    def call(self, method: str, path: str, token: str | None = None, **options: Any) -> requests.Response:
        headers = {"Authorization": f"Bearer {token or self.token}", **options.pop("headers", {})}
        return requests.request(method, self.emulator.url + path, headers=headers, timeout=20, **options)

    def submit(
        self, text: str = "One. Two.", chunker: str = "sentence", model: str = "gte-small", **body: Any
    ) -> Any:
        return self.call(
            "POST", f"/ai/async-chunking/{chunker}/{model}", json={"batch": [{"text": text}], **body}
        )

    def poll(self, job_id: str) -> requests.Response:
        return self.call("GET", f"/ai/async-chunking/{job_id}")

    def chunk(self, text: str, chunker: str = "sentence", model: str = "gte-small", **body: Any) -> Any:
        job_id = self.submit(text, chunker, model, **body).json()["chunkingId"]
        for _ in range(400):
            answer = self.poll(job_id).json()
            if answer["status"] != "SUBMITTED":
                return answer
            time.sleep(0.05)
        raise AssertionError("the job did not end")

    def predict(
        self,
        use_case: str,
        *texts: str,
        model: str = "llama-3-8b-instruct",
        kind: str = "prediction",
        **body: Any,
    ) -> requests.Response:
        batch = {"batch": [{"text": text} for text in texts]} if texts else {}
        return self.call("POST", f"/ai/{kind}/{use_case}/{model}", json={**batch, **body})

    def submit_prediction(self, use_case: str = "passthrough", *texts: str, **body: Any) -> requests.Response:
        return self.predict(use_case, *(texts or ("x",)), kind="async-prediction", **body)

    def poll_prediction(self, job_id: str) -> requests.Response:
        return self.call("GET", f"/ai/async-prediction/{job_id}")

    def customer(
        self, method: str, path: str, customer: str = "demo-customer", **options: Any
    ) -> requests.Response:
        return self.call(method, f"/customers/{customer}/ai/{path}", **options)

    def control(self, method: str, path: str, **body: Any) -> Any:
        answer = requests.request(
            method, f"{self.emulator.url}/_emulator{path}", json=body or None, timeout=20
        )
        answer.raise_for_status()
        return answer.json()

    def set(self, **changes: Any) -> Any:
        """The settings after a change of some."""
        return self.control("PATCH", "/settings", **changes)

    def advance(self, seconds: float) -> None:
        """Push the emulator's clock forward."""
        self.control("POST", "/clock", advance=seconds)

    def last(self) -> Any:
        """The last record of the log."""
        return self.control("GET", "/log")[-1]

    def fault(self, kind: str, match: str = "any", **more: Any) -> None:
        self.control("POST", "/faults", kind=kind, match=match, **more)
