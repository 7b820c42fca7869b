# SPDX-License-Identifier: Apache-2.0
"""BAM and CRAM: packed records, headers, reading, writing.

`bam_records` holds what a record and a header are, `bam_reader` reads, `bam_writer` writes, `bai` indexes.
"""

from __future__ import annotations

from megabolt.formats.bam_reader import BamReader, CramReader, concatenate, open_reads, read_records
from megabolt.formats.bam_records import BamHeader, RecordBlock, check_contigs, empty_block
from megabolt.formats.bam_writer import BamWriter

__all__ = [
    "BamHeader",
    "BamReader",
    "BamWriter",
    "CramReader",
    "RecordBlock",
    "check_contigs",
    "concatenate",
    "empty_block",
    "open_reads",
    "read_records",
]
