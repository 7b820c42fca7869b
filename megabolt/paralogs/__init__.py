# SPDX-License-Identifier: Apache-2.0
"""Pairs that fit two copies of a sequence: which copy they come from, decided for all of them together."""
