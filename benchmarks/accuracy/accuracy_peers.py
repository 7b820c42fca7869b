# SPDX-License-Identifier: Apache-2.0
"""Callers beside megabolt: how each is run on a BAM, and how its own documentation says to filter it.

What a caller found and what that cost is kept in the working folder as CALLER.vcf.gz and CALLER.cost.json: a peer is
run once for a BAM, whatever is measured afterwards.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from runs import Cost, measure, shell

#: Sites that GATK's documentation of hard filtering removes, SNPs and indels (with sites that are both) apart.
_GATK_SNP = "QD<2 || QUAL<30 || SOR>3 || FS>60 || MQ<40 || MQRankSum<-12.5 || ReadPosRankSum<-8"
_GATK_INDEL = "QD<2 || QUAL<30 || FS>200 || ReadPosRankSum<-20"


@dataclass(frozen=True)
class Filtering:
    """A filter of a caller's documentation: arguments of `bcftools filter`; None: all records stay."""

    name: str
    arguments: tuple[str, ...] | None = None


#: One thread each. {reference}, {bam}, {vcf} and {gatk} are words of the shell.
COMMANDS = {
    "gatk": "{gatk} HaplotypeCaller -R {reference} -I {bam} -O {vcf} --native-pair-hmm-threads 1",
    "freebayes": "freebayes -f {reference} {bam} | bcftools view -Oz -o {vcf}",
    "bcftools": "bcftools mpileup -f {reference} -a AD,DP -Ou {bam} | bcftools call -mv -Oz -o {vcf}",
    "megabolt": "{python} -m megabolt call -q --reference {reference} --bam {bam} -o {vcf} --threads 1 {declared}",
}

FILTERINGS = {
    "gatk": (
        Filtering("none"),
        Filtering("hard filters", ("-e", f'(TYPE!~"indel" && ({_GATK_SNP})) || (TYPE~"indel" && ({_GATK_INDEL}))')),
    ),
    "freebayes": (Filtering("QUAL>20", ("-i", "QUAL>20")), Filtering("QUAL>1", ("-i", "QUAL>1"))),
    "bcftools": (
        Filtering("none"),
        Filtering("QUAL>=20", ("-i", "QUAL>=20")),
        Filtering("-g3 -G10, QUAL<10", ("-g3", "-G10", "-e", "QUAL<10 || (AC<2 && QUAL<15)")),
    ),
    "megabolt": (Filtering("its own"),),
}


@dataclass(frozen=True)
class Runner:
    """How callers are started: GATK's command, the declaration for megabolt, a niceness that leaves others in peace."""

    gatk: str
    open_data: str | None
    niceness: int = 0

    def stored(
        self, caller: str, bam: Path, reference: Path, work: Path, again: bool = False
    ) -> tuple[Path, Cost | None]:
        """The calls and their cost, from the working folder if they are there; a note `null` is an unknown cost."""
        work.mkdir(parents=True, exist_ok=True)
        calls, note = work / f"{caller}.vcf.gz", work / f"{caller}.cost.json"
        if again or not (calls.exists() and note.exists()):
            part = work / f"part-{caller}.vcf.gz"
            values = {
                "gatk": self.gatk,
                "python": shlex.quote(sys.executable),
                "declared": shlex.join(["--open-data", self.open_data]) if self.open_data else "",
                **{
                    name: shlex.quote(str(path))
                    for name, path in (("reference", reference), ("bam", bam), ("vcf", part))
                },
            }
            command = COMMANDS[caller].format(**values)
            wanted = self.niceness - os.nice(0)
            cost = measure(
                shell(f"exec nice -n {wanted} bash -c {shlex.quote('set -o pipefail; ' + command)}"),
                work / f"{caller}.log",
            )
            part.replace(calls)
            note.write_text(json.dumps(asdict(cost), indent=1) + "\n", encoding="utf-8")
        known = json.loads(note.read_text(encoding="utf-8"))
        return calls, Cost(**known) if known else None


def filtered(calls: Path, filtering: Filtering, folder: Path) -> Path:
    """The calls that a filtering leaves; the file itself if it leaves all."""
    if filtering.arguments is None:
        return calls
    path = folder / f"{calls.name}.filtered.vcf.gz"
    command = ["bcftools", "filter", *filtering.arguments, "-Oz", "-o", str(path), str(calls)]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    return path
