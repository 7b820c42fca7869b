# SPDX-License-Identifier: Apache-2.0
"""Read groups: one for each lane, as @RG lines of the SAM header.

Duplicates are looked for within a library, so lanes of one library share its name; the default library is the
sample's name.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from megabolt.errors import UsageError

_FIELDS = {"ID": "read_group", "SM": "sample", "LB": "library", "PL": "platform", "PU": "unit"}
#: Further fields of the SAM specification (1.3); tags with a small letter are anybody's.
_MORE = frozenset(("BC", "CN", "DS", "DT", "FO", "KS", "PG", "PI", "PM"))
_OWN_TAG = re.compile(r"[A-Za-z][a-z]|[a-z][A-Za-z0-9]|[A-Z][a-z]")
_VALUE = re.compile(r"[^\x00-\x1f\x7f\ud800-\udfff]+")
_HELP = r"Write it as bwa does: --read-group '@RG\tID:lane1\tLB:lib1\tPU:FLOWCELL.1'; SM is the sample."


@dataclass(frozen=True)
class ReadGroup:
    """An @RG line.

    Attributes
    ----------
    unit
        The platform unit (flow cell and lane); empty if not known.
    more
        Further fields, "CN:centre", in the order they were given.
    """

    read_group: str
    sample: str
    library: str
    platform: str = "ILLUMINA"
    unit: str = ""
    more: tuple[str, ...] = ()

    def header_line(self) -> str:
        """The @RG line without its newline; fields in the order ID SM LB PL PU, then the further ones."""
        fields = [f"{tag}:{getattr(self, name)}" for tag, name in _FIELDS.items() if getattr(self, name)]
        return "\t".join(["@RG", *fields, *self.more])


def read_groups(sample: str, texts: Sequence[str], n_lanes: int) -> tuple[ReadGroup, ...]:
    r"""The read groups of a job.

    Parameters
    ----------
    sample
        Becomes SM; a text that names another one is an error.
    texts
        What the user wrote, "@RG\tID:a\tLB:b" with real tabs or backslash-t; none, or one for each lane.
    n_lanes
        Number of lanes (pairs of FASTQ files, interleaved or unpaired files), hence of read groups.

    Raises
    ------
    UsageError
        Wrong number, unknown or repeated field, no ID, two groups with one ID.
    """
    if not texts:
        ids = [sample] if n_lanes == 1 else [f"{sample}.L{k}" for k in range(1, n_lanes + 1)]
        return tuple(ReadGroup(name, sample, sample) for name in ids)
    if len(texts) != n_lanes:
        raise UsageError(
            f"{len(texts)} read groups for {n_lanes} lanes",
            "Give one for each pair of files of -1 and -2, then for each file of --interleaved, then of --single.",
        )
    groups = tuple(_parse(text, sample) for text in texts)
    ids = [group.read_group for group in groups]
    for name in ids:
        if ids.count(name) > 1:
            raise UsageError(f"two read groups have the ID {name}", "Each read group needs its own ID.")
    return groups


def _parse(text: str, sample: str) -> ReadGroup:
    fields = text.replace("\\t", "\t").split("\t")
    if fields[0] == "@RG":
        fields = fields[1:]
    values: dict[str, str] = {}
    more: list[str] = []
    for field in fields:
        tag, colon, value = field.partition(":")
        known = tag in _FIELDS or tag in _MORE or _OWN_TAG.fullmatch(tag)
        if not colon or not known or not _VALUE.fullmatch(value):
            allowed = ", ".join([*_FIELDS, *sorted(_MORE)])
            raise UsageError(f"'{field}' is not a field of a read group ({allowed})", _HELP)
        if _FIELDS.get(tag, tag) in values:
            raise UsageError(f"read group '{text}' has {tag} twice", _HELP)
        values[_FIELDS.get(tag, tag)] = value
        if tag not in _FIELDS:
            more.append(field)
    if "read_group" not in values:
        raise UsageError(f"read group '{text}' has no ID", _HELP)
    if values.setdefault("sample", sample) != sample:
        raise UsageError(f"read group '{text}' has SM:{values['sample']}, but --sample is {sample}", _HELP)
    values.setdefault("library", sample)
    return ReadGroup(**{name: value for name, value in values.items() if name in _FIELDS.values()}, more=tuple(more))


def header_groups(lines: Sequence[str]) -> tuple[ReadGroup, ...]:
    """Read groups from @RG lines of a header that was read: all their fields are kept."""
    found = []
    for line in lines:
        values = dict(field.split(":", 1) for field in line.split("\t")[1:] if ":" in field)
        named = {name: values.pop(tag, "") for tag, name in _FIELDS.items()}
        found.append(ReadGroup(**named, more=tuple(f"{tag}:{value}" for tag, value in values.items())))
    return tuple(found)
