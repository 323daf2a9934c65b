# SPDX-License-Identifier: Apache-2.0
"""Airflow's task state store, as a task sees it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any


@dataclass
class TaskStateStore:
    """
    Survives attempts.

    :param down: Airflow's API server is away.
    """

    values: dict[str, Any] = field(default_factory=dict)
    down: bool = False

    def get(self, key: str, default: Any = None) -> Any:
        """Read."""
        return self.values.get(key, default)

    def set(self, key: str, value: Any) -> None:
        """Write."""
        if self.down:
            raise ConnectionError("no API server")
        json.dumps(value)
        self.values[key] = value

    def delete(self, key: str) -> None:
        """Remove."""
        if self.down:
            raise ConnectionError("no API server")
        self.values.pop(key, None)
