# SPDX-License-Identifier: Apache-2.0
"""TaskFlow decorators: the function returns the inputs, the task returns the results."""
