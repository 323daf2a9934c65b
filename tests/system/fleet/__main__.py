# SPDX-License-Identifier: Apache-2.0
"""``python -m tests.system.fleet [--short]``."""

import sys

from tests.system.fleet.stories import main

if __name__ == "__main__":
    sys.exit(main())
