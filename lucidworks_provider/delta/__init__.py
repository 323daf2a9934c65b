# SPDX-License-Identifier: Apache-2.0
"""
Delta tables on any storage: the transaction log, deletion vectors and rows.

Implements the part of the `Delta protocol <https://github.com/delta-io/delta/blob/master/PROTOCOL.md>`_ that this
package writes, and refuses by name what it does not implement.

=============  =====================================================================
module         contents
=============  =====================================================================
``log``        snapshots, commits, schemas, checkpoints
``vectors``    deletion vector files
``rows``       the rows of a snapshot as Arrow batches
``cleanup``    vacuum of data files and of the log
=============  =====================================================================
"""

from __future__ import annotations

from importlib.util import find_spec

from lucidworks_provider.errors import InputError


def check_installed() -> None:
    """
    Refuse Delta tables where what writes and reads them is not installed. Imports nothing.

    :raises InputError: names the extra.
    """
    if find_spec("pyarrow") is None or find_spec("pyroaring") is None:
        raise InputError(
            "Delta tables need pyarrow and pyroaring: pip install 'airflow-provider-lucidworks[documents]', on the "
            "workers too."
        )
