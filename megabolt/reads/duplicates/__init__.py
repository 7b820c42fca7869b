# SPDX-License-Identifier: Apache-2.0
"""Duplicates as Picard MarkDuplicates finds them: templates, groups, optical duplicates, UMIs, metrics."""
