# SPDX-License-Identifier: Apache-2.0
"""Synthetic genomes, variants and reads with known truth, seeded; used by tests, benchmarks and the demo.

genome → variants → haplotypes → reads; `job` runs them all and `files` writes what they made.
"""
