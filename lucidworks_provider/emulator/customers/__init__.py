# SPDX-License-Identifier: Apache-2.0
"""The Models API: custom models, their training and their deployments (section 10)."""
