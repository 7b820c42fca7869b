# SPDX-License-Identifier: Apache-2.0
"""Packed records between aligner and caller: bins of the genome, sorting, duplicates."""
