# SPDX-License-Identifier: Apache-2.0
"""megabolt: FASTQ to BAM, VCF, metrics and report, fast, right and under a recorded consent."""

__version__ = "0.1.0"
