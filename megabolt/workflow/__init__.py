# SPDX-License-Identifier: Apache-2.0
"""Jobs: what one sample needs from FASTQ to metrics, and many samples through Snakemake."""
