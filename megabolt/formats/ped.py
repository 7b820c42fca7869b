# SPDX-License-Identifier: Apache-2.0
"""Pedigrees: PED files of six columns (family, person, father, mother, sex, phenotype).

In: a text file. Out: nuclear families, as far as their members are among the samples asked for.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from megabolt.errors import InputFormatError

_UNKNOWN = ("0", ".", "")
_SEXES = {"1": "male", "2": "female"}


@dataclass(frozen=True)
class Person:
    """One line of a PED file; father and mother are None where they are not known. sex: male, female or unknown."""

    name: str
    family: str
    father: str | None
    mother: str | None
    sex: str
    line: int


@dataclass(frozen=True)
class NuclearFamily:
    """Two parents, of whom one may be missing (None), and their children."""

    father: str | None
    mother: str | None
    children: tuple[str, ...]


def read_ped(path: Path | str) -> dict[str, Person]:
    """The people of a PED file by name, in its order.

    Columns are parted by white space; lines that begin with '#' and empty ones are skipped.

    Raises
    ------
    InputFormatError
        Fewer than six columns, a name twice, a parent of the wrong sex, somebody among their own ancestors.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputFormatError(path, "", f"cannot be read ({error.strerror})", "Check the path.") from error
    except UnicodeDecodeError as error:
        raise InputFormatError(path, f"byte {error.start}", "not text", "Is this a PED file?") from error
    people: dict[str, Person] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip() and not line.startswith("#"):
            person = _person(path, number, line.split())
            if person.name in people:
                why = f"{person.name} is there already, in line {people[person.name].line}"
                raise InputFormatError(path, f"line {number}", why, "Names must differ, across families too.")
            people[person.name] = person
    if not people:
        raise InputFormatError(path, "", "nobody is in it", "Give one line of six columns per person.")
    _check_parents(path, people)
    return people


def _person(path: Path, number: int, columns: list[str]) -> Person:
    where = f"line {number}"
    if len(columns) < 6:
        why = f"{len(columns)} columns instead of six"
        raise InputFormatError(path, where, why, "Columns: family, person, father, mother, sex, phenotype.")
    family, name, father, mother, sex = columns[:5]
    if name in _UNKNOWN:
        raise InputFormatError(path, where, f"{name!r} is no name of a person", "Name the person in column 2.")
    if sex.lower() not in {"0", "1", "2", "-9", ".", "other", "unknown", "male", "female"}:
        raise InputFormatError(path, where, f"{sex!r} is no sex", "Write 1 (male), 2 (female) or 0 in column 5.")
    if name in (father, mother):
        raise InputFormatError(path, where, f"{name} is their own parent", "Correct columns 3 and 4.")
    if father == mother and father not in _UNKNOWN:
        raise InputFormatError(path, where, f"{father} is both father and mother", "Correct columns 3 and 4.")
    known = [None if one in _UNKNOWN else one for one in (father, mother)]
    plain = sex.lower() if sex.lower() in _SEXES.values() else _SEXES.get(sex, "unknown")
    return Person(name, family, known[0], known[1], plain, number)


def _check_parents(path: Path, people: dict[str, Person]) -> None:
    for person in people.values():
        for parent, wrong in ((person.father, "female"), (person.mother, "male")):
            if parent is not None and parent in people and people[parent].sex == wrong:
                role = "father" if wrong == "female" else "mother"
                why = f"{parent}, the {role} of {person.name}, is {wrong} in line {people[parent].line}"
                raise InputFormatError(path, f"line {person.line}", why, "Correct the sex or the parents.")
    done: set[str] = set()
    for person in people.values():
        _check_ancestors(path, people, person, done)


def _check_ancestors(path: Path, people: dict[str, Person], person: Person, done: set[str]) -> None:
    """Walk up from a person; who has been looked at is in `done`."""
    stack: list[tuple[str, bool]] = [(person.name, False)]
    above: set[str] = set()
    while stack:
        name, leaving = stack.pop()
        if leaving:
            above.discard(name)
            done.add(name)
            continue
        if name in above:
            raise InputFormatError(
                path, f"line {people[name].line}", f"{name} is among their own ancestors", "Correct the parents."
            )
        if name in done or name not in people:
            continue
        above.add(name)
        stack.append((name, True))
        one = people[name]
        stack += [(parent, False) for parent in (one.father, one.mother) if parent is not None]


def nuclear_families(people: dict[str, Person], samples: Iterable[str]) -> list[NuclearFamily]:
    """Families with a child and at least one parent among the samples, in the order of the file."""
    present = set(samples)
    children: dict[tuple[str | None, str | None], list[str]] = {}
    for person in people.values():
        father = person.father if person.father in present else None
        mother = person.mother if person.mother in present else None
        if person.name in present and (father is not None or mother is not None):
            # half-known children of one parent may have different other parents: they are families of their own
            children.setdefault((person.father, person.mother), []).append(person.name)
    return [
        NuclearFamily(father if father in present else None, mother if mother in present else None, tuple(names))
        for (father, mother), names in children.items()
    ]
