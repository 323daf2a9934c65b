# SPDX-License-Identifier: Apache-2.0
"""What the processes of a fleet have in common, where the connection's ``share_via`` says: Variables or Redis."""
