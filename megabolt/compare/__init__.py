# SPDX-License-Identifier: Apache-2.0
"""Haplotype-aware comparison of two sets of variants: what a caller found, missed and invented.

variants (records → trimmed alleles) → clusters (what can interact) → match (best agreement) → job (counts).
"""
