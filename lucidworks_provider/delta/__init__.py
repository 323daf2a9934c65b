# SPDX-License-Identifier: Apache-2.0
"""
Delta tables on any storage: the transaction log, deletion vectors and rows.

Implements the part of the `Delta protocol <https://github.com/delta-io/delta/blob/master/PROTOCOL.md>`_ that this
package writes, and refuses by name what it does not implement.

=============  =====================================================================
module         contents
=============  =====================================================================
``log``        snapshots, commits, checkpoints
``schema``     schemas of Arrow and of Delta
``vectors``    deletion vector files
``rows``       the rows of a snapshot as Arrow batches
``cleanup``    vacuum of data files and of the log
=============  =====================================================================
"""

from __future__ import annotations

from lucidworks_provider.errors import check_documents_extra


def check_installed() -> None:
    """
    Refuse Delta tables where what writes and reads them is not installed. Imports nothing.

    :raises InputError: names the extra.
    """
    check_documents_extra("Delta tables need", "pyarrow", "pyroaring")
