# SPDX-License-Identifier: Apache-2.0
"""A real browser for the tests: Debian's Chromium, driven by Playwright, which brings no browser of its own then."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from dev.packages import install_chromium

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import BrowserContext

# No word with the outside, and no questions at the first start.
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
def browser(profile: Path, width: int = 900, height: int = 700) -> Iterator[BrowserContext]:
    """Chromium without a window.

    :param profile: an empty folder for what it stores
    :param width: of a page, in pixels
    :param height: of a page, in pixels
    :raises RuntimeError: Chromium is missing and cannot be installed; the text says what to install
    """
    from playwright.sync_api import sync_playwright

    program = install_chromium()
    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            profile,
            executable_path=program,
            args=_OPTIONS,
            chromium_sandbox=os.geteuid() != 0,  # root has none
            viewport={"width": width, "height": height},
            locale="en-US",
            color_scheme="light",
            reduced_motion="reduce",
        )
        try:
            yield context
        finally:
            context.close()
