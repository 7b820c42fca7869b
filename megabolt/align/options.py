# SPDX-License-Identifier: Apache-2.0
"""What the user may ask of the aligner."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class AlignOptions:
    """Choices that change records; the defaults are what `bwa mem` users expect.

    Attributes
    ----------
    adapters
        Bases behind the end of a fragment shorter than its reads, found by the overlap of the mates: "clip"
        leaves them in the record, soft-clipped; "trim" leaves them out; "off" aligns them like any other base.
    poly_g
        Runs of G at the end of a read, which two-colour machines write where a fragment has ended: "on" treats
        them as adapters; "auto" does so for read names of such machines; "off" never.
    soft_clip
        Supplementary records carry the whole read, soft-clipped (`bwa mem -Y`), instead of their part.
    xa
        List up to so many other places of a read in its XA tag; none where there are more. 0: no XA.
    alt
        Prefer primary contigs to ALT contigs, if the index knows ALT contigs (`bwa mem` with a .alt file).
    """

    adapters: Literal["clip", "trim", "off"] = "clip"
    poly_g: Literal["auto", "on", "off"] = "auto"
    soft_clip: bool = False
    xa: int = 0
    alt: bool = True
