# SPDX-License-Identifier: Apache-2.0
"""One run over a corpus: what is to be done, the journal of what was, the engine, and what it looked like."""
