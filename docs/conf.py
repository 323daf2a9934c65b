# SPDX-License-Identifier: Apache-2.0
"""The site: the pages of this folder, and the reference that is made of the docstrings."""

from __future__ import annotations

import atexit
import os
import re
import shutil
import tempfile
from importlib.metadata import version as version_of
from typing import TYPE_CHECKING

# Importing Airflow makes a home; the reference needs none that stays.
_home = tempfile.mkdtemp(prefix="lucidworks-docs-")
atexit.register(shutil.rmtree, _home, ignore_errors=True)
os.environ["AIRFLOW_HOME"] = _home

if TYPE_CHECKING:
    from sphinx.application import Sphinx

project = "airflow-provider-lucidworks"
version = release = version_of(project)
project_copyright = "the authors of airflow-provider-lucidworks"

extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"{project} {version}"
html_copy_source = False

# Links to headings, as GitHub makes them.
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the signatures stay short; what a parameter may be is said in words
autodoc_preserve_defaults = True

# The docstrings name pages as files, which is what a reader of the source has.
_PAGE = re.compile(r"``docs/([\w/-]+)\.md``")


def _link_pages(
    _app: Sphinx, _what: str, _name: str, _obj: object, _options: object, lines: list[str]
) -> None:
    lines[:] = [_PAGE.sub(r":doc:`/\1`", line) for line in lines]


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", _link_pages)
