# SPDX-License-Identifier: Apache-2.0
"""The FASTQ files of a lane: what may be given, without anything that reads them.

In: paths. Out: `FastqLane`. Next: `megabolt.formats.fastq`. Costs no import of Numba.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from megabolt.errors import UsageError

#: The path that stands for the standard input.
STANDARD_INPUT = Path("-")

#: Where UMIs can be: behind the last ':' or '_' of the name; in a word RX:Z:... or UMI:... of the comment.
UMI_SOURCES = ("name", "comment")


def name_of(path: Path) -> str:
    """What messages call a file."""
    return "standard input" if path == STANDARD_INPUT else str(path)


@dataclass(frozen=True)
class FastqLane:
    """The FASTQ of one read group.

    Attributes
    ----------
    first
        Mate 1, or both mates in turn, or unpaired reads; "-" is the standard input.
    second
        Mate 2, if it has a file of its own.
    interleaved
        `first` holds mate 1 and mate 2 of each pair in turn.
    """

    first: Path
    second: Path | None = None
    interleaved: bool = False

    def __post_init__(self) -> None:
        if self.interleaved and self.second is not None:
            raise UsageError(
                f"{name_of(self.first)}: interleaved, and {name_of(self.second)} is given as its mate 2",
                "An interleaved file holds both mates: leave the second file out.",
            )

    @property
    def paired(self) -> bool:
        """Whether its reads have mates."""
        return self.interleaved or self.second is not None

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.first,) if self.second is None else (self.first, self.second)
