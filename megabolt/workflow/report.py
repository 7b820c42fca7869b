# SPDX-License-Identifier: Apache-2.0
"""One report of a run: a page that needs nothing but itself, and the same as JSON.

In: metrics.json of each sample, compare.json of those with a known truth. Out: report.html, report.json.
Nothing of a person's sequence is read: metrics are counts, and the files are only listed with their sizes.
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from megabolt import __version__
from megabolt.errors import InputFormatError, UsageError
from megabolt.formats.output import atomic_output

SCHEMA_VERSION = 1

METRICS_SUFFIX = ".metrics.json"
COMPARISON_SUFFIX = ".compare.json"

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; }
h1 { margin-bottom: 0; } h2 { margin-top: 2.2rem; border-bottom: 1px solid #cfd6df; }
table { border-collapse: collapse; margin: .6rem 0 1.2rem; } caption { text-align: left; color: #56606d; }
th, td { padding: .2rem .9rem .2rem 0; text-align: left; vertical-align: top; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
tbody tr:nth-child(odd) { background: #f4f6f9; }
.bar { display: inline-block; height: .7em; background: #3c78b4; vertical-align: baseline; }
.quiet { color: #56606d; } details { margin: .4rem 0; } summary { cursor: pointer; }
"""


@dataclass(frozen=True)
class SampleReport:
    """What is known of one sample: its metrics, its accuracy (empty without truth), its files with their
    bytes."""

    sample: str
    metrics: Mapping[str, Any]
    accuracy: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, int] = field(default_factory=dict)


def write_report(
    metrics: Sequence[Path], comparisons: Sequence[Path], page: Path, data: Path | None = None
) -> list[SampleReport]:
    """Write the page and, if named, the JSON.

    Parameters
    ----------
    metrics
        SAMPLE.metrics.json of each sample.
    comparisons
        SAMPLE.compare.json of those with a truth.
    page
        The HTML to write.
    data
        The JSON to write.

    Raises
    ------
    UsageError
        A file that is not there or not named as above, or a comparison without its sample.
    InputFormatError
        A file that is not JSON.
    """
    samples = collect(metrics, comparisons)
    created = datetime.now(UTC).isoformat(timespec="seconds")
    if data is not None:
        content = {
            "schema_version": SCHEMA_VERSION,
            "megabolt": __version__,
            "created": created,
            "samples": [
                {"sample": s.sample, "metrics": s.metrics, "accuracy": s.accuracy, "files": s.files} for s in samples
            ],
        }
        with atomic_output(data) as temporary:
            temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    with atomic_output(page) as temporary:
        temporary.write_text(render(samples, created), encoding="utf-8")
    return samples


def collect(metrics: Sequence[Path], comparisons: Sequence[Path]) -> list[SampleReport]:
    """Read the files and join them by sample."""
    accuracy = {_sample_of(path, COMPARISON_SUFFIX): _read(path) for path in comparisons}
    found = []
    for path in metrics:
        name = _sample_of(path, METRICS_SUFFIX)
        content = _read(path)
        beside = sorted(file for file in path.parent.glob(f"{name}.*") if file.is_file())
        sizes = {file.name: file.stat().st_size for file in beside}
        found.append(SampleReport(name, content, accuracy.pop(name, {}), sizes))
    if accuracy:
        raise UsageError(f"a comparison of {next(iter(accuracy))}, but no metrics of it", "Name both.")
    return found


def _sample_of(path: Path, suffix: str) -> str:
    if not path.name.endswith(suffix):
        raise UsageError(f"{path}: not a file named SAMPLE{suffix}", "Name the files that the jobs wrote.")
    return path.name[: -len(suffix)]


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}", "Check the path.") from error
    except ValueError as error:
        raise InputFormatError(path, "", f"not JSON: {error}", "Make it again.") from error
    if not isinstance(content, dict):
        raise InputFormatError(path, "", "not a JSON object", "Make it again.")
    return content


def render(samples: Sequence[SampleReport], created: str) -> str:
    """The page: an overview of all samples, then each sample."""
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8"><title>megabolt report</title>',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<style>{_STYLE}</style></head><body>",
        "<h1>megabolt report</h1>",
        f'<p class="quiet">{len(samples)} sample{"s" * (len(samples) != 1)}, made {_text(created)} '
        f"by megabolt {_text(__version__)}. Research use; not a diagnosis.</p>",
        _overview(samples),
    ]
    parts += [_section(sample) for sample in samples]
    return "\n".join([*parts, "</body></html>", ""])


#: Columns of the overview: title, and the leaf of metrics.json that fills it.
OVERVIEW = {
    "read pairs": "reads.pairs",
    "single reads": "reads.single",
    "mapped": "reads.mapped_fraction",
    "duplicates": "reads.duplicate_fraction",
    "mean depth": "depth.mean",
    "insert size": "insert_size.mean",
    "SNPs": "calls.snps",
    "indels": "calls.indels",
    "Ti/Tv": "calls.ti_tv",
    "wall s": "seconds.total",
    "CPU s": "cpu_seconds.total",
}


def _overview(samples: Sequence[SampleReport]) -> str:
    rows = []
    for sample in samples:
        flat = dict(leaves(sample.metrics))
        rows.append([sample.sample, *(flat.get(path) for path in OVERVIEW.values()), *_scores(sample)])
    head = ["sample", *OVERVIEW]
    if any(sample.accuracy for sample in samples):
        head += ["SNP F1", "indel F1"]
    return "<h2>Overview</h2>" + _table(head, [row[: len(head)] for row in rows])


def f1_scores(comparison: Mapping[str, Any]) -> tuple[float | None, float | None]:
    """F1 of SNPs and of indels in a comparison, None where it has none."""
    classes = comparison.get("classes", {})
    snp, indel = (classes.get(kind, {}).get("f1") for kind in ("SNP", "indel"))
    return snp, indel


def _scores(sample: SampleReport) -> list[str]:
    return ["" if score is None else f"{score:.4f}" for score in f1_scores(sample.accuracy)]


def _section(sample: SampleReport) -> str:
    parts = [f"<h2>{_text(sample.sample)}</h2>"]
    if sample.accuracy:
        parts.append(_leaf_table("Accuracy against the truth", sample.accuracy))
    stages = _stages(sample.metrics)
    if stages:
        longest = max(wall for _, wall, _ in stages) or 1.0
        rows = [
            [name, wall, cpu, _Html(f'<span class="bar" style="width:{12 * wall / longest:.2f}em"></span>')]
            for name, wall, cpu in stages
        ]
        parts.append(_table(["stage", "wall s", "CPU s", ""], rows, "Time per stage"))
    qualities = sample.metrics.get("recalibration")
    if qualities:
        from megabolt.recalibrate.plots import quality_svg  # here: it costs the import of Numba

        parts.append(f"<h3>Base qualities</h3>{quality_svg(qualities['before'], qualities['after'])}")
    rest = {key: value for key, value in sample.metrics.items() if key not in ("stages", "recalibration")}
    parts.append(f"<details open><summary>All metrics</summary>{_leaf_table('', rest)}</details>")
    files = [[name, size] for name, size in sample.files.items()]
    parts.append(_table(["file", "bytes"], files, "Files"))
    return "\n".join(parts)


def _stages(metrics: Mapping[str, Any]) -> list[tuple[str, float, float]]:
    """(name, wall seconds, CPU seconds) of each stage."""
    stages = metrics.get("stages", [])
    return [(str(one["name"]), float(one["wall_seconds"]), float(one["cpu_seconds"])) for one in stages]


def leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """(dotted path, value) of everything in nested mappings that is not a mapping itself."""
    for key, value in tree.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from leaves(value, f"{path}.")
        else:
            yield path, value


class _Html(str):
    """Text that is markup already."""


def _leaf_table(caption: str, tree: Mapping[str, Any]) -> str:
    rows: list[list[Any]] = []
    for path, value in leaves(tree):
        if isinstance(value, list) and len(value) > 12:
            value = f"{len(value)} values, see the JSON"
        rows.append([path.replace(".", " \u203a ").replace("_", " "), value])
    return _table(["", ""], rows, caption)


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]], caption: str = "") -> str:
    numeric = [bool(rows) and all(_is_number(row[i]) for row in rows) for i in range(len(head))]
    classes = [' class="n"' if number else "" for number in numeric]
    top = "".join(f"<th{c}>{_text(title)}</th>" for title, c in zip(head, classes))
    body = "".join(
        "<tr>" + "".join(f"<td{c}>{_cell(value)}</td>" for value, c in zip(row, classes)) + "</tr>\n" for row in rows
    )
    title = f"<caption>{_text(caption)}</caption>" if caption else ""
    header = f"<thead><tr>{top}</tr></thead>" if any(head) else ""
    return f"<table>{title}{header}<tbody>\n{body}</tbody></table>"


def _is_number(value: Any) -> bool:
    return value is None or value == "" or (isinstance(value, int | float) and not isinstance(value, bool))


def _cell(value: Any) -> str:
    if isinstance(value, _Html):
        return value
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, list):
        return _text(", ".join(str(item) for item in value))
    return _text(str(value))


def _text(value: str) -> str:
    return html.escape(value)
