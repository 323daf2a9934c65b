# SPDX-License-Identifier: Apache-2.0
"""Lucidworks AI itself: build a request, read an answer. No Airflow and no I/O, so values test it."""
