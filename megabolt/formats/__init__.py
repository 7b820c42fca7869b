# SPDX-License-Identifier: Apache-2.0
"""File formats: FASTQ, FASTA, BAM and CRAM, VCF, BED. They read and write, and do nothing else.

What holds a person's data is opened with a `Permit` only, and recorded before it is opened.
"""
