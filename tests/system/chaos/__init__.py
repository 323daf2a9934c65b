# SPDX-License-Identifier: Apache-2.0
"""Faults of the service, the network, disks and clocks while work is in flight, and an hour without one."""
