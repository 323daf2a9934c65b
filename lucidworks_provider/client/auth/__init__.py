# SPDX-License-Identifier: Apache-2.0
"""One access token per scope, shared by all processes of a deployment."""
