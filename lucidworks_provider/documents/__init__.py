# SPDX-License-Identifier: Apache-2.0
"""Documents in, chunks and vectors out: storage, and the files that the next task reads."""
