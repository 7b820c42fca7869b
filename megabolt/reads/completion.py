# SPDX-License-Identifier: Apache-2.0
"""Templates of an existing file, as the second of their records comes: both are put together in one pass.

In: facts and ends of a block's records, whom the name join has found for each. Out: `Templates` and their links.
Used by `reads/existing.py`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from megabolt.compute.bits import U
from megabolt.compute.jit import kernel
from megabolt.errors import InternalError
from megabolt.formats.record_facts import FIRST, SINGLE, Facts
from megabolt.reads.duplicates.places import OTHER_NAME
from megabolt.reads.duplicates.templates import MATE1_REVERSE, RecordEnds, Templates

_NO_END = U(0xFFFFFFFFFFFFFFFF)
#: FIRST, SINGLE, OTHER_NAME, MATE1_REVERSE: kernels may not take constants of other files.
_FIRST, _SINGLE, _OTHER_NAME, _MATE1_REVERSE = 2, 1, 2, 1
if (_FIRST, _SINGLE, _OTHER_NAME, _MATE1_REVERSE) != (FIRST, SINGLE, OTHER_NAME, MATE1_REVERSE):
    raise InternalError("the kernel's words differ from those of the facts and of the duplicate finder")


def complete(
    facts: Facts,
    ends: RecordEnds,
    first_record: int,
    partner: NDArray[np.int64],
    own: NDArray[np.int64],
    entry_record: NDArray[np.int64],
    waiting_kind: NDArray[np.int64],
    waiting: RecordEnds,
) -> tuple[Templates, NDArray[np.int64]]:
    """The templates that a block completes, in the order of the records that do.

    Parameters
    ----------
    facts, ends
        Of the block's records; the first has the number `first_record` in the file.
    partner, own
        int64 [n]: as `NameJoin.join` gives them. Those of `own` whose mate has come in the block become -1.
    entry_record
        int64 [entries]: the record of each entry.
    waiting_kind, waiting
        By entry, of those from earlier blocks.

    Returns
    -------
    Templates, without `others`; int64 [3, n]: of each its number, the record of the other mate (-1: none), its name.
    """
    n = int(np.count_nonzero(partner >= 0) + np.count_nonzero(facts.kind == SINGLE))
    with_umi = ends.umi is not None
    out = Templates(
        signature=np.empty((n, 2), np.uint64),
        quality_sum=np.empty(n, np.int32),
        location=np.empty((n, 3), np.int32),
        read_group=np.empty(n, np.uint16),
        flags=np.empty(n, np.uint8),
        unmapped=np.empty(n, np.uint16),
        others=np.zeros(n, np.uint16),
        umi=np.empty(n, np.uint64) if with_umi else None,
    )
    links = np.empty((3, n), np.int64)
    nothing = np.empty(0, np.uint64)
    _complete(
        facts.kind, facts.group, facts.hash, first_record, partner, own, entry_record,
        ends.end, ends.score, ends.location, ends.flags, nothing if ends.umi is None else ends.umi,
        waiting_kind, waiting.end, waiting.score, waiting.location, waiting.flags,
        nothing if waiting.umi is None else waiting.umi,
        out.signature, out.quality_sum, out.location, out.read_group, out.flags, out.unmapped,
        nothing if out.umi is None else out.umi, links,
    )  # fmt: skip
    out.index = links[0]
    return out, links


@kernel(
    "void(int64[::1], int64[::1], uint64[:, ::1], int64, int64[::1], int64[::1], int64[::1],"
    " uint64[::1], int32[::1], int32[:, ::1], uint8[::1], uint64[::1],"
    " int64[::1], uint64[::1], int32[::1], int32[:, ::1], uint8[::1], uint64[::1],"
    " uint64[:, ::1], int32[::1], int32[:, ::1], uint16[::1], uint8[::1], uint16[::1], uint64[::1], int64[:, ::1])"
)
def _complete(
    kind: Any,
    group: Any,
    name: Any,
    first_record: Any,
    partner: Any,
    own: Any,
    entry_record: Any,
    end: Any,
    score: Any,
    location: Any,
    flags: Any,
    umi: Any,
    waiting_kind: Any,
    waiting_end: Any,
    waiting_score: Any,
    waiting_location: Any,
    waiting_flags: Any,
    waiting_umi: Any,
    out_signature: Any,
    out_score: Any,
    out_location: Any,
    out_group: Any,
    out_flags: Any,
    out_unmapped: Any,
    out_umi: Any,
    links: Any,
) -> None:
    """See `complete`. The mate lies in the block or, `far`, waits."""
    t = U(0)
    for r in range(U(len(kind))):
        entry = partner[r]
        if entry < 0 and kind[r] != _SINGLE:
            continue
        one, other = end[r], _NO_END
        mate, far = U(0), False
        record = np.int64(-1)
        if entry >= 0:
            record = entry_record[U(entry)]
            far = record < first_record
            if far:
                mate = U(entry)
                other = waiting_end[mate]
            else:
                mate = U(record - first_record)
                other = end[mate]
                own[mate] = -1
        # the mate, which came before, is first where it lies lower or, mapped, at the same place
        swap = entry >= 0 and other != _NO_END and (other >> U(1)) <= (one >> U(1))
        both = entry >= 0 and one != _NO_END and other != _NO_END
        mates_kind = np.int64(0)
        mates_score = np.int32(0)
        if entry >= 0:
            mates_kind = waiting_kind[mate] if far else kind[mate]
            mates_score = waiting_score[mate] if far else score[mate]
        # mate 1: the first if it says so, else the other one, if there is one
        if swap:
            strand = other if mates_kind == _FIRST else one
        else:
            strand = one if kind[r] == _FIRST or entry < 0 else other
        total = mates_score if swap else score[r]
        if both:
            total = score[r] + mates_score
        flag = flags[r]
        if swap:
            flag = waiting_flags[mate] if far else flags[mate]
        for k in range(3):
            place = location[r, k]
            if swap:
                place = waiting_location[mate, k] if far else location[mate, k]
            out_location[t, k] = place
        if len(out_umi) > 0:
            word = umi[r]
            if swap:
                word = waiting_umi[mate] if far else umi[mate]
            out_umi[t] = word
        first_end = other if swap else one
        second_end = _NO_END
        if both:
            second_end = one if swap else other
        out_signature[t, 0] = min(first_end, second_end)
        out_signature[t, 1] = max(first_end, second_end)
        out_score[t] = total
        out_group[t] = np.uint16(group[r])
        out_flags[t] = np.uint8((flag & _OTHER_NAME) | (_MATE1_REVERSE if strand & U(1) != U(0) else 0))
        out_unmapped[t] = np.uint16((one == _NO_END) + (entry >= 0 and other == _NO_END))
        number = first_record + np.int64(r)
        links[0, t] = record if swap else number
        links[1, t] = number if swap else record
        links[2, t] = np.int64(name[r, 0])
        t += U(1)
