# SPDX-License-Identifier: Apache-2.0
"""TaskFlow: a function returns the inputs, its task returns the results."""
