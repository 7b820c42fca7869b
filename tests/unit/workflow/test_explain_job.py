# SPDX-License-Identifier: Apache-2.0
"""`explain` from files and through the command line: the records of `call`, the page, bad questions, the gate."""

from __future__ import annotations

import gzip
import json
import re
import resource
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pysam
import pytest

from megabolt.align.index import build_index
from megabolt.call.engine import CallOptions
from megabolt.cli.main import main
from megabolt.errors import UsageError
from megabolt.testing.records import TextReference, make_block, random_reference, reads_of_haplotype
from megabolt.workflow import explain_job
from megabolt.workflow.explain_job import SiteQuestion, read_question, run_explain
from megabolt.workflow.germline import run_call

LENGTHS = {"chr1": 24_000, "HLA:1": 2_000}
TEXTS = {name: random_reference(length, k + 40) for k, (name, length) in enumerate(LENGTHS.items())}
OPEN = "test suite: simulated reads"


def other(base: str) -> str:
    return "ACGT"[("ACGT".index(base) + 2) % 4]


def haplotypes() -> tuple[str, str]:
    """Two copies of chr1 with SNPs every 300 bases, every fifth a deletion or an insertion."""
    text, copies = TEXTS["chr1"], []
    for first in (200, 500):
        pieces, p = [], 0
        for k, at in enumerate(range(first, len(text) - 300, 600)):
            pieces.append(text[p:at])
            kind = k % 5
            pieces.append(text[at] + "GATC" if kind == 3 else text[at] if kind == 4 else other(text[at]))
            p = at + (4 if kind == 4 else 1)
        copies.append("".join([*pieces, text[p:]]))
    return copies[0], copies[1]


def write_fastq_as_bam(folder: Path) -> Path:
    """Reads of both copies, aligned by `megabolt align`."""
    generator = np.random.default_rng(8)
    lines = []
    for c, text in enumerate((*haplotypes(), TEXTS["HLA:1"])):
        for i in range(len(text) * 12 // 100):
            start = int(generator.integers(0, len(text) - 100))
            read = list(text[start : start + 100])
            for x in np.flatnonzero(generator.random(100) < 0.004):
                read[x] = other(read[x])
            lines.append(f"@c{c}.{i}\n{''.join(read)}\n+\n{'F' * 100}\n")
    (folder / "reads.fq").write_text("".join(lines))
    words = ["align", "--reference", str(folder / "ref.fa"), "--single", str(folder / "reads.fq"), "--sample", "S"]
    assert main([*words, "-o", str(folder / "S.bam"), "--threads", "1", "--memory", "2G", "--open-data", OPEN]) == 0
    return folder / "S.bam"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("explain")
    (made / "ref.fa").write_text("".join(f">{name}\n{text}\n" for name, text in TEXTS.items()))
    build_index(made / "ref.fa")
    write_fastq_as_bam(made)
    run_call(
        reference=made / "ref.fa", bam=made / "S.bam", output=made / "S.vcf.gz", threads=1, memory=2 << 30,
        open_data=OPEN, say=lambda text: None,
    )  # fmt: skip
    return made


def rows_of(folder: Path) -> list[str]:
    with gzip.open(folder / "S.vcf.gz", "rt") as file:
        return [line for line in file if not line.startswith("#")]


def command(folder: Path, site: str, *more: str) -> list[str]:
    words = ["explain", "--reference", str(folder / "ref.fa"), "--bam", str(folder / "S.bam"), "--site", site]
    return [*words, "--threads", "1", "--open-data", OPEN, *more]


def test_each_site_has_the_record_of_call(folder: Path) -> None:
    rows = rows_of(folder)
    assert len(rows) > 60
    assert sum(len(row.split("\t")[3]) != len(row.split("\t")[4]) for row in rows) > 10
    for row in rows:
        columns = row.split("\t")
        question = SiteQuestion(columns[0], int(columns[1]) - 1, columns[3], columns[4].split(",")[0])
        found, sample = run_explain(
            reference=folder / "ref.fa", bam=folder / "S.bam", question=question, open_data=OPEN
        )  # fmt: skip
        assert sample == "S"
        (allele,) = [one for one in found.alleles if one.event in found.asked]
        assert allele.record is not None
        assert allele.record.line() == row
        assert allele.written == allele.called is True


def test_text_and_page(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pages = {}
    snp = next(row for row in rows_of(folder) if len(row.split("\t")[3]) == len(row.split("\t")[4]) == 1)
    indel = next(row for row in rows_of(folder) if len(row.split("\t")[3]) == 4)
    for row in (snp, indel):
        columns = row.split("\t")
        page = tmp_path / f"{columns[1]}.html"
        log = tmp_path / f"{columns[1]}.jsonl"
        capsys.readouterr()
        assert main(command(folder, f"chr1:{columns[1]}", "--html", str(page), "--audit-log", str(log))) == 0
        text = capsys.readouterr().out
        assert text.startswith(f"chr1:{columns[1]}, reference {columns[3][0]}, sample S, 2 copies\n\nVERDICT\n")
        assert f"chr1:{columns[1]} {columns[3]}>{columns[4]}: called. Genotype {columns[9][:3]}, QUAL" in text
        for title in ("READS", "EVIDENCE", "WINDOW", "GENOTYPES", "RECORDS", "THRESHOLDS"):
            assert f"\n{title}" in text
        assert all(len(line) <= 130 for line in text.partition("RECORDS")[0].splitlines())
        pages[columns[1]] = page.read_text(encoding="utf-8")
        actions = [json.loads(line)["action"] for line in log.read_text().splitlines()]
        assert actions == ["permit", "open-read", "open-write"]
    for content in pages.values():
        root = ElementTree.fromstring(content.partition("\n")[2])
        tags = {element.tag.rpartition("}")[2] for element in root.iter()}
        assert {"svg", "rect", "table", "style"} <= tags
        assert not {"script", "link", "img", "iframe"} & tags
        names = {name for element in root.iter() for name in element.attrib}
        assert not {"src", "href", "onclick", "onload"} & names
        assert set(re.findall(r"https?://[^\"'< ]+", content)) <= {"http://www.w3.org/2000/svg"}
        assert "@import" not in content
        assert "url(" not in content
    assert "HAPLOTYPES" not in pages[snp.split("\t")[1]].upper().replace("HAPLOTYPES:", "")


def test_a_page_draws_each_read_and_escapes_names(folder: Path, tmp_path: Path) -> None:
    bam = tmp_path / "odd.bam"
    with pysam.AlignmentFile(str(folder / "S.bam")) as source, pysam.AlignmentFile(str(bam), "wb", source) as out:
        for k, read in enumerate(source.fetch("chr1", 0, 2_000)):
            read.query_name = f'<b>&"{k}'
            out.write(read)
    pysam.index(str(bam))
    page = tmp_path / "odd.html"
    found, _ = run_explain(
        reference=folder / "ref.fa", bam=bam, question=SiteQuestion("chr1", 200), page=page, open_data=OPEN
    )
    root = ElementTree.fromstring(page.read_text(encoding="utf-8").partition("\n")[2])
    titles = [element.text or "" for element in root.iter() if element.tag.endswith("title")]
    assert sum(title.startswith('<b>&"') for title in titles) == len(found.reads) > 10


def test_a_site_without_reads_or_variants(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command(folder, "HLA:1:1,000", "-q")) == 0
    assert "Not called: each of the" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("site", "more", "words"),
    [
        ("chr1", [], ["--site chr1", "chr:position"]),
        ("chr1:", [], ["--site chr1:", "chr:position"]),
        ("chr1:0", [], ["--site chr1:0", "the first base is 1"]),
        ("chr1:-5", [], ["--site chr1:-5"]),
        ("chr1:5-9", [], ["--site chr1:5-9"]),
        ("chr1:abc", [], ["--site chr1:abc"]),
        ("chr9:5", [], ["no contig chr9", "chr1, HLA:1"]),
        ("chr1:24001", [], ["--site chr1:24001", "1 to 24000"]),
        ("chr1:99999999999999999999", [], ["1 to 24000"]),
        ("chr1:500", ["--allele", "A"], ["--allele A", "REF>ALT"]),
        ("chr1:500", ["--allele", "A>A"], ["--allele A>A"]),
        ("chr1:500", ["--allele", "A><DEL>"], ["--allele A><DEL>"]),
        ("chr1:500", ["--flank", "0"], ["--flank 0"]),
        ("chr1:500", ["--html", "page.txt"], ["page.txt", ".html"]),
        ("chr1:500", ["--alleles", "nowhere.vcf"], ["nowhere.vcf", "does not exist"]),
        ("chr1:500", ["--threads", "0"], ["--threads 0"]),
    ],
)
def test_bad_questions(
    site: str, more: list[str], words: list[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert main(command(folder, site, *more)) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    message = captured.err[captured.err.index(": error: ") :]
    for word in words:
        assert word in message
    assert "\n  " in message
    assert "Traceback" not in captured.err


def test_alleles_that_are_none_there(folder: Path) -> None:
    there = TEXTS["chr1"][1000:1003]
    with pytest.raises(UsageError, match=f"the reference has {there} at chr1:1001"):
        run_explain(
            reference=folder / "ref.fa", bam=folder / "S.bam", open_data=OPEN,
            question=read_question("chr1:1001", f"{other(there[0])}{there[1:]}>A"),
        )  # fmt: skip
    with pytest.raises(UsageError, match="neither SNPs nor a plain insertion or deletion"):
        run_explain(
            reference=folder / "ref.fa", bam=folder / "S.bam", open_data=OPEN,
            question=read_question("chr1:1001", f"{there}>{other(there[0])}{other(there[1])}"),
        )  # fmt: skip
    several = "".join(map(other, there))
    found, _ = run_explain(
        reference=folder / "ref.fa", bam=folder / "S.bam", open_data=OPEN,
        question=read_question("chr1:1001", f"{there}>{several}"),
    )  # fmt: skip
    assert [event[0] for event in found.asked] == [1000, 1001, 1002]


def test_nothing_is_opened_without_a_declaration(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = command(folder, "chr1:201", "--html", str(tmp_path / "p.html"), "--audit-log", str(tmp_path / "log"))
    at = words.index("--open-data")
    assert main([*words[:at], *words[at + 2 :]]) == 77
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "--open-data" in captured.err
    assert not (tmp_path / "p.html").exists()
    assert (tmp_path / "log").read_text().count('"refuse"') == 1


def test_a_full_disk_leaves_no_page(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page, log = tmp_path / "p.html", tmp_path / "log"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (6_000, before[1]))
    try:
        code = main(command(folder, "chr1:201", "--html", str(page), "--audit-log", str(log)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    message = capsys.readouterr()
    assert (code, message.out) == (1, "")
    assert "too large" in message.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log", "log.head"]


def test_the_chunk_that_decides_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    """A repeat that lies across the border of two chunks belongs to the one it begins in."""
    text = random_reference(3000, 7)
    text = text[:1000] + "AC" * 12 + "T" + text[1025:]
    reads = reads_of_haplotype(text, [(999, text[999:1004], text[999])], depth=20)
    block, reference = make_block(reads), TextReference({"c": text})
    monkeypatch.setattr(explain_job, "CHUNK_BASES", 1010)
    for site, start in ((1015, 0), (1200, 1010), (900, 0)):
        trace, *_ = explain_job._called(lambda *_: block, reference, 0, site, CallOptions(), None)
        assert trace.chunk is not None
        assert trace.chunk.start == start
        assert [r.start for r in trace.records] == ([999] if start == 0 else [])


def test_damaged_and_foreign_files(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cut = tmp_path / "cut.bam"
    whole = (folder / "S.bam").read_bytes()
    cut.write_bytes(whole[: len(whole) // 2])
    cut.with_suffix(".bam.bai").write_bytes((folder / "S.bam.bai").read_bytes())
    (tmp_path / "no.bam").write_text("no BAM")
    for bam in (cut, tmp_path / "no.bam", tmp_path / "nowhere.bam"):
        words = command(folder, "chr1:20001", "--html", str(tmp_path / "p.html"))
        words[words.index("--bam") + 1] = str(bam)
        capsys.readouterr()
        assert main(words) in (1, 2)
        captured = capsys.readouterr()
        assert captured.out == ""
        assert bam.name in captured.err
        assert "Traceback" not in captured.err
        assert not (tmp_path / "p.html").exists()
    assert main(command(folder, "chr1:201", "--html", str(tmp_path / "no/p.html"))) == 1
    assert "no such folder" in capsys.readouterr().err
