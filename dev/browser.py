# SPDX-License-Identifier: Apache-2.0
"""Debian's Chromium for tests, driven by Playwright."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from dev.packages import install_chromium

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import BrowserContext

# Without network access and without dialogs of the first start.
_OPTIONS = (
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--no-first-run",
    "--no-proxy-server",
)


@contextmanager
def browser(profile: Path, height: int = 700) -> Iterator[BrowserContext]:
    """
    Start Chromium without a window.

    :param profile: an empty folder for its profile.
    :param height: of a page, in pixels.
    :raises RuntimeError: Chromium is missing and cannot be installed; the text names the package.
    """
    from playwright.sync_api import sync_playwright

    program = install_chromium()
    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            profile,
            executable_path=program,
            args=_OPTIONS,
            chromium_sandbox=os.geteuid() != 0,  # root has none
            viewport={"width": 900, "height": height},
            locale="en-US",
            color_scheme="light",
            reduced_motion="reduce",
        )
        try:
            yield context
        finally:
            context.close()
