# SPDX-License-Identifier: Apache-2.0
"""
A strict local emulator of the Lucidworks AI HTTP API.

It is built from the vendor's public facts alone and shares no code with the client, so a misreading in one of
them shows up as a failing test instead of being repeated in both. Nothing here is the vendor's service.

Importing this package is cheap; starlette and uvicorn are needed only by ``create_app`` and ``running``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lucidworks_provider.emulator.settings import EmulatorSettings

if TYPE_CHECKING:
    from lucidworks_provider.emulator.app import create_app
    from lucidworks_provider.emulator.server import running

__all__ = ["EmulatorSettings", "create_app", "running"]

_HOME = {"create_app": "app", "running": "server"}


def __getattr__(name: str) -> Any:
    """Load the parts that need starlette and uvicorn on first use."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    try:
        module = import_module(f"{__name__}.{_HOME[name]}")
    except ModuleNotFoundError as missing:
        if (missing.name or "").partition(".")[0] not in {"starlette", "uvicorn", "h11"}:
            raise
        raise ImportError(
            f"The emulator needs {missing.name}. "
            'Install it with: pip install "airflow-provider-lucidworks[emulator]"'
        ) from missing
    return getattr(module, name)
