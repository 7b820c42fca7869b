# SPDX-License-Identifier: Apache-2.0
"""What is done with aligned reads on their way to the output: duplicates, recalibration, files.

In: what the user asked for. Out: `Processing`, which the jobs of a sample share.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from megabolt.formats import cram
from megabolt.reads.bins import FLAG_DUPLICATES, Finish
from megabolt.reads.duplicates.finder import DuplicateOptions
from megabolt.recalibrate import ApplyOptions


@dataclass(frozen=True)
class Processing:
    """Choices of a job; the defaults are those of the field's best practices but for recalibration, which is off.

    Attributes
    ----------
    duplicates
        What counts as one.
    finish
        What becomes of them.
    known_sites
        VCFs of known variants; base qualities are recalibrated if there are any.
    recalibration
        How qualities are replaced then.
    level
        Compression of the BAM or CRAM; None: its default.
    cram_version
        One of `formats.cram.VERSIONS`.
    md5
        Write the output's MD5 beside it.
    scratch
        Folder for what memory does not hold; None: the output's.
    """

    duplicates: DuplicateOptions = field(default_factory=DuplicateOptions)
    finish: Finish = FLAG_DUPLICATES
    known_sites: tuple[Path, ...] = ()
    recalibration: ApplyOptions = field(default_factory=ApplyOptions)
    level: int | None = None
    cram_version: str = cram.VERSIONS[0]
    md5: bool = False
    scratch: Path | None = None


DEFAULT_PROCESSING = Processing()
