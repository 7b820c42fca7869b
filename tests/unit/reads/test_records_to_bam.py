# SPDX-License-Identifier: Apache-2.0
"""Records of every kind through bins, sweep and writer: Picard and samtools find nothing wrong in the BAM."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pysam
import pytest

from megabolt.align.record import ContigNames, RecordChunk, build_records
from megabolt.formats.bam import BamHeader, BamWriter
from megabolt.formats.bases import decode, encode, reverse_complement
from megabolt.formats.fasta import Contig
from megabolt.privacy.consent import authorize
from megabolt.reads.bins import BIN_BASES, BinStore
from megabolt.reads.duplicates.finder import DuplicateFinder
from megabolt.reads.duplicates.templates import templates_of
from megabolt.testing.placed import Place, Read, Template, packed_genome, placed_batch
from megabolt.workflow.clock import Clock
from megabolt.workflow.sweep import Touch, sweep

NAMES = ["one", "two", "three"]
LENGTHS = [BIN_BASES + 9000, 7000, 5000]
PICARD = "PicardCommandLine"


def rc(text: str) -> str:
    return decode(reverse_complement(encode(text)))


class Maker:
    """Templates whose places are where their bases come from."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.genome = [decode(self.rng.integers(0, 4, length).astype(np.uint8)) for length in LENGTHS]
        self.n = 0

    def name(self) -> str:
        self.n += 1
        return "q" * int(self.rng.choice([1, 20, 250])) + f"{self.n:04}"

    def qualities(self, length: int) -> list[int]:
        return [int(q) for q in self.rng.integers(2, 42, length)]

    def spot(self, length: int) -> tuple[int, int]:
        """A place with room around it, often near the border of two bins."""
        contig = int(self.rng.integers(3))
        if contig == 0:
            return 0, BIN_BASES + int(self.rng.integers(-6000, 6000))
        return contig, int(self.rng.integers(1000, LENGTHS[contig] - 1000 - length))

    def read(self, name: str, contig: int, start: int, length: int, reverse: bool, clip: int = 0) -> Read:
        """`clip` bases at its 3' end are from elsewhere."""
        bases = self.genome[contig][start : start + length]
        junk = decode(self.rng.integers(0, 4, clip).astype(np.uint8))
        cigar = [(length, "M")]
        if clip:
            cigar = [(clip, "S"), *cigar] if reverse else [*cigar, (clip, "S")]
        place = Place(contig, start, cigar, reverse, int(self.rng.integers(61)))
        return Read(name, (rc(bases) if reverse else bases) + junk, self.qualities(length + clip), place)

    def pair(self, insert: int = 350) -> Template:
        name, (contig, start) = self.name(), self.spot(insert)
        a = self.read(name, contig, start, 100, False, int(self.rng.choice([0, 0, 7])))
        b = self.read(name, contig, start + insert - 80, 80, True, int(self.rng.choice([0, 0, 9])))
        return (a, b) if self.rng.random() < 0.5 else (b, a)

    def split_read(self, name: str, n_parts: int) -> Read:
        """Pieces of 40 bases from anywhere on either strand; the first is the primary one."""
        pieces, places, total = [], [], 40 * n_parts
        for k in range(n_parts):
            contig, start = self.spot(40)
            reverse = bool(self.rng.integers(2))
            piece = self.genome[contig][start : start + 40]
            pieces.append(rc(piece) if reverse else piece)
            cigar = [(40 * k, "S"), (40, "M"), (total - 40 * k - 40, "S")]
            cigar = [(length, letter) for length, letter in cigar if length]
            places.append(Place(contig, start, cigar[::-1] if reverse else cigar, reverse, 60 - k))
        return Read(name, "".join(pieces), self.qualities(total), places[0], places[1:])

    def noise(self, name: str, length: int) -> Read:
        return Read(name, decode(self.rng.integers(0, 5, length).astype(np.uint8)), self.qualities(length), None)

    def copy(self, template: Template) -> Template:
        """The same molecule read again."""
        name = self.name()
        return tuple(
            Read(name, r.bases, self.qualities(len(r.bases)), r.place, r.parts, r.others, r.trimmed) for r in template
        )

    def pairs(self) -> list[Template]:
        made = [self.pair() for _ in range(120)]
        for n_parts in (2, 2, 2, 3, 4) * 6:
            name = self.name()
            other = self.pair()[0]
            other.name = name
            made.append((self.split_read(name, n_parts), other))
        for _ in range(6):
            name = self.name()
            made.append((self.split_read(name, 2), self.split_read(name, 3)))
            name = self.name()
            made.append((self.noise(name, 50), self.split_read(name, 2)))
        made += [self.copy(template) for template in made[::3]]
        for template in made[::4]:
            template[0].umi = "ACGT+TTGA"
        for template in made[::5]:
            if template[1].place:
                template[1].others = [self.split_read("x", 1).place] * 2  # type: ignore[list-item]
                for other in template[1].others:
                    other.cigar = [(len(template[1].bases), "M")]
                    other.contig, other.start = 1, 3000
        for template in made[::7]:
            for read in template:
                read.bases += "AGATCGG"
                read.qualities += [30] * 7
                read.trimmed = 7
        for lone in (self.noise("empty", 0), self.noise("adapter", 30)):
            lone.trimmed = len(lone.bases)
            mate = self.pair()[0]
            mate.name = lone.name
            made.append((lone, mate))
        made += [(self.noise(name, 90), self.noise(name, 80)) for name in ("noise1", "noise2")]
        return made

    def singles(self, pairs: list[Template]) -> list[Template]:
        made: list[Template] = [(self.pair()[0],) for _ in range(40)]
        made += [(self.split_read(self.name(), int(self.rng.integers(2, 5))),) for _ in range(20)]
        made += [self.copy(template) for template in made[::3]]
        made += [self.copy((template[0],)) for template in pairs[:20]]  # 5' ends of pairs
        made += [(self.noise("s1", 70),), (self.noise("s2", 0),)]
        return made


@pytest.fixture(scope="module", params=[False, True], ids=["hard", "soft"])
def bam(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, int]:
    """The BAM, how many templates are duplicates, how many records went in."""
    folder = tmp_path_factory.mktemp("bam")
    maker = Maker(5)
    genome = maker.genome
    (folder / "ref.fa").write_text("".join(f">{name}\n{text}\n" for name, text in zip(NAMES, genome)))
    pysam.faidx(str(folder / "ref.fa"))
    pysam.dict("-o", str(folder / "ref.dict"), str(folder / "ref.fa"))
    digests = [hashlib.md5(text.encode(), usedforsecurity=False).hexdigest() for text in genome]
    contigs = [Contig(name, len(text), md5) for name, text, md5 in zip(NAMES, genome, digests)]
    header = BamHeader.build(contigs, ["@RG\tID:lane1\tSM:s\tLB:lib\tPL:ILLUMINA"])
    pairs = maker.pairs()
    store, finder, n, first_pair = BinStore(LENGTHS, 1 << 28), DuplicateFinder(["lib"]), 0, 0
    for templates in (pairs[:50], pairs[50:], maker.singles(pairs)):
        batch, alignments = placed_batch(templates, first_pair)
        chunk = build_records(
            batch,
            alignments,
            *packed_genome(genome),
            b"lane1",
            RecordChunk.allocate(1),
            names=ContigNames.of(NAMES),
            soft_clip=request.param,
        )
        store.add(chunk)
        finder.add(templates_of(chunk), chunk.first_pair)
        n += chunk.n_records
        first_pair += batch.n_pairs
    store.duplicate = finder.resolve().duplicate
    permit = authorize("s", "test", open_data="T. Tester: made up for a test")
    with BamWriter(folder / "s.bam", header, permit) as writer:
        sweep(store, writer, None, Touch(), threads=1, clock=Clock())
    return folder / "s.bam", int(np.bitwise_count(store.duplicate).sum()), n


def records(path: Path) -> Iterator[Any]:
    with pysam.AlignmentFile(str(path), check_sq=False) as file:
        yield from file.fetch(until_eof=True)


def test_every_record_arrives(bam: tuple[Path, int, int]) -> None:
    path, n_duplicates, n = bam
    pysam.quickcheck(str(path))
    read = list(records(path))
    assert len(read) == n
    assert sum(r.is_supplementary for r in read) > 100
    assert 0 < n_duplicates == len({r.query_name for r in read if r.is_duplicate})


def test_the_records_of_a_read_tell_of_each_other(bam: tuple[Path, int, int]) -> None:
    """SA of each lists all others, the primary first, and each is where the others say."""
    parts: dict[tuple[str, int], list[Any]] = {}
    for record in records(bam[0]):
        parts.setdefault((record.query_name, record.flag & 0xC0), []).append(record)
    for group in parts.values():
        assert sum(not r.is_supplementary for r in group) == 1
        entries = {}
        for r in group:
            cigar = (r.cigarstring or "").replace("H", "S")
            sign = "-" if r.is_reverse else "+"
            entries[id(r)] = (
                f"{r.reference_name},{r.reference_start + 1},{sign},{cigar},{r.mapping_quality},"
                f"{r.get_tag('NM') if r.has_tag('NM') else 0}"
            )
        for r in group:
            told = r.get_tag("SA").rstrip(";").split(";") if r.has_tag("SA") else []
            assert Counter(told) == Counter(entries[id(other)] for other in group if other is not r)
            if r.is_supplementary:
                assert told[0] == next(entries[id(p)] for p in group if not p.is_supplementary)
        assert len({r.is_duplicate for r in group}) == 1


@pytest.mark.skipif(not shutil.which(PICARD), reason="picard-tools is not installed")
def test_picard_finds_no_fault(bam: tuple[Path, int, int]) -> None:
    path = bam[0]
    options = ["MODE=VERBOSE", "VALIDATE_INDEX=true", f"REFERENCE_SEQUENCE={path.parent / 'ref.fa'}"]
    done = subprocess.run([PICARD, "ValidateSamFile", f"INPUT={path}", *options], capture_output=True, text=True)
    assert "No errors found" in done.stdout, done.stdout[:2000] + done.stderr[-2000:]


@pytest.mark.skipif(not shutil.which(PICARD), reason="picard-tools is not installed")
def test_duplicates_are_those_of_picard(bam: tuple[Path, int, int], tmp_path: Path) -> None:
    """By name, as Picard wants it to flag supplementary records too; it flags unmapped mates as well, we do not."""
    pysam.sort("-n", "-o", str(tmp_path / "named.bam"), str(bam[0]))
    command = [PICARD, "MarkDuplicates", f"INPUT={tmp_path / 'named.bam'}", f"OUTPUT={tmp_path / 'marked.bam'}"]
    command += [f"METRICS_FILE={tmp_path / 'metrics'}", "ASSUME_SORT_ORDER=queryname"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert flags(tmp_path / "marked.bam") == flags(bam[0])


def flags(path: Path) -> dict[Any, bool]:
    found = {}
    for r in records(path):
        if not r.is_unmapped:
            key = (r.query_name, r.flag & ~0x400, r.reference_id, r.reference_start, r.cigarstring)
            assert key not in found
            found[key] = r.is_duplicate
    return found


def test_mates_and_duplicates_are_those_of_samtools(bam: tuple[Path, int, int], tmp_path: Path) -> None:
    named, mated, plain, marked = (str(tmp_path / f"{name}.bam") for name in ("named", "mated", "plain", "marked"))
    pysam.sort("-n", "-o", named, str(bam[0]))
    pysam.fixmate("-m", "-p", named, mated)  # -p: leaves flag 0x2 as it is
    pysam.sort("-o", plain, mated)
    pysam.markdup("-S", plain, marked)
    assert flags(Path(marked)) == flags(bam[0])
    ours, theirs = (Counter(map(mate_fields, records(Path(path)))) for path in (str(bam[0]), mated))
    assert ours == theirs


def mate_fields(r: Any) -> tuple[Any, ...]:
    """samtools says MC:Z:* where the mate is unmapped, we say nothing."""
    tags = [r.get_tag(name) if r.has_tag(name) else None for name in ("MC", "MQ")]
    mate = (r.next_reference_id, r.next_reference_start, *(None if tag == "*" else tag for tag in tags))
    return (r.query_name, r.flag & ~0x400, r.reference_id, r.reference_start, *mate)
