# SPDX-License-Identifier: Apache-2.0
"""The site: the pages in this folder, and the reference from the docstrings."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from importlib.metadata import version as version_of

# Importing Airflow creates its home folder.
_home = tempfile.mkdtemp(prefix="lucidworks-docs-")
atexit.register(shutil.rmtree, _home, ignore_errors=True)
os.environ["AIRFLOW_HOME"] = _home

project = "airflow-provider-lucidworks"
version = release = version_of(project)
project_copyright = "the authors of airflow-provider-lucidworks"

extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"{project} {version}"
html_copy_source = False

# Anchors of headings, like on GitHub.
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # short signatures; the docstrings describe types
autodoc_preserve_defaults = True
