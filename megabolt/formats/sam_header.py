# SPDX-License-Identifier: Apache-2.0
"""Lines of SAM headers that pass from an input to an output (SAM specification, chapter 1.3).

In: the text of an input's header. Out: its lines for the file that is made from it, with one more program in the
chain of @PG lines.
"""

from __future__ import annotations

from collections.abc import Sequence

from megabolt import __version__

_PROGRAM = "megabolt"


def lines_of(text: str, kind: str) -> list[str]:
    """The lines of one kind ("@RG"), without newlines."""
    return [line for line in all_lines(text) if line.split("\t", 1)[0] == kind]


def all_lines(text: str) -> list[str]:
    """All lines that are not empty; only newlines end them, other separators may stand in comments."""
    return [line for line in (one.removesuffix("\r") for one in text.split("\n")) if line]


def field_of(line: str, tag: str) -> str:
    """The value of the first field of that tag; empty if there is none."""
    for field in line.split("\t")[1:]:
        if field.startswith(tag + ":"):
            return field[len(tag) + 1 :]
    return ""


def program_chain(text: str, command_line: str = "") -> list[str]:
    """All @PG lines of a header, and ours behind them.

    A chain is followed by PP from the last program to the first. Where the input has several chains (a merged
    file), each gets a line of ours at its end, as htslib has it. IDs are unique: megabolt, megabolt.1, ... Ids that
    the input has twice are made so too, because readers refuse them; PP then means the first of them.
    """
    earlier = _with_unique_ids(lines_of(text, "@PG"))
    taken = {field_of(line, "ID") for line in earlier}
    followed = {field_of(line, "PP") for line in earlier}
    ends = [name for name in (field_of(line, "ID") for line in earlier) if name not in followed]
    if earlier and not ends:  # a ring: every program names another; the last line stands for all
        ends = [field_of(earlier[-1], "ID")]
    ours = []
    for end in ends or [""]:
        name = unused(_PROGRAM, taken)
        taken.add(name)
        ours.append(_program_line(name, end, command_line))
    return earlier + ours


def _program_line(name: str, previous: str, command_line: str) -> str:
    line = f"@PG\tID:{name}\tPN:{_PROGRAM}\tVN:{__version__}"
    if previous:
        line += f"\tPP:{previous}"
    # words may hold tabs, line ends and bytes that are no text: none of them may come into a header
    shown = " ".join(command_line.encode("utf-8", "backslashreplace").decode().split())
    return f"{line}\tCL:{shown}" if shown else line


def unused(name: str, taken: set[str]) -> str:
    """The name, or the first of name.1, name.2, ... that is not taken."""
    chosen, k = name, 0
    while chosen in taken:
        k += 1
        chosen = f"{name}.{k}"
    return chosen


def _with_unique_ids(lines: Sequence[str]) -> list[str]:
    every = {field_of(line, "ID") for line in lines}
    seen: set[str] = set()
    result = []
    for line in lines:
        name = field_of(line, "ID")
        if name in seen:
            other = unused(name, every)
            every.add(other)
            line = "\t".join(f"ID:{other}" if field == f"ID:{name}" else field for field in line.split("\t"))
            name = other
        seen.add(name)
        result.append(line)
    return result
