# SPDX-License-Identifier: Apache-2.0
"""What can be chosen in base quality recalibration; the defaults are those of GATK 4."""

from __future__ import annotations

from dataclasses import dataclass

from megabolt.errors import UsageError

#: Qualities are 0..93, as SAM text can show them.
N_QUALITIES = 94
#: Bases of a context: the base itself and the one before it, as sequenced.
CONTEXT_SIZE = 2
N_CONTEXTS = 16
#: Index of "no context": the first base of a read, or one beside N.
NO_CONTEXT = 16
#: The lowest quality that means something; below are codes of the machine.
LOWEST_QUALITY = 6


@dataclass(frozen=True)
class CountOptions:
    """How covariates are counted.

    Attributes
    ----------
    max_cycle
        The longest read, in bases without clips.
    preserve_below
        Bases of a lower quality are neither counted nor changed.
    low_quality_tail
        Bases at the ends of a read of at most this quality give their neighbours no context.
    quantizing_levels
        Levels of the quantised qualities in the report; `ApplyOptions` says whether they are used.
    """

    max_cycle: int = 500
    preserve_below: int = LOWEST_QUALITY
    low_quality_tail: int = 2
    quantizing_levels: int = 16

    def __post_init__(self) -> None:
        if not 1 <= self.max_cycle <= 5000:
            raise UsageError(f"a longest read of {self.max_cycle} bases", "Recalibration is for 1 to 5000 bases.")
        if not 0 <= self.low_quality_tail < self.preserve_below <= N_QUALITIES:
            raise UsageError(
                f"a low-quality tail of {self.low_quality_tail} with qualities below {self.preserve_below} preserved",
                "The tail must be lower: its bases are not counted.",
            )
        if not 1 <= self.quantizing_levels <= N_QUALITIES:
            raise UsageError(f"{self.quantizing_levels} quantising levels", f"Choose 1 to {N_QUALITIES}.")


@dataclass(frozen=True)
class ApplyOptions:
    """How qualities are replaced.

    Attributes
    ----------
    quantize_levels
        Distinct qualities to write, chosen from the counts to lose least; 0 writes all.
    static_levels
        Qualities to round to, such as (10, 20, 30, 40); empty for none. Rounding is in probability, or down.
    round_down
        Round to the next lower of `static_levels`.
    preserve_below
        Bases of a lower quality are not changed.
    low_quality_tail
        As the table was counted with.
    keep_original
        Write the qualities as they were to the tag OQ, where a record has none.
    """

    quantize_levels: int = 0
    static_levels: tuple[int, ...] = ()
    round_down: bool = False
    preserve_below: int = LOWEST_QUALITY
    low_quality_tail: int = 2
    keep_original: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.quantize_levels <= N_QUALITIES:
            raise UsageError(f"{self.quantize_levels} levels of quality", f"Choose 1 to {N_QUALITIES}, or 0 for all.")
        wrong = [level for level in self.static_levels if not LOWEST_QUALITY <= level < N_QUALITIES]
        if wrong:
            raise UsageError(
                f"a quality level of {wrong[0]}",
                f"Levels are {LOWEST_QUALITY} to {N_QUALITIES - 1}: lower ones are codes.",
            )
