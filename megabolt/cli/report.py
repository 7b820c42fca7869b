# SPDX-License-Identifier: Apache-2.0
"""Join the metrics of samples into one page.

Reads the SAMPLE.metrics.json of `megabolt germline` and, where a truth is known, the SAMPLE.compare.json of
`megabolt compare --json`. Writes one HTML file that needs nothing else, and if wanted the same as JSON.
`megabolt run` does this at its end.

Example:
  megabolt report results/*/*.metrics.json -o report.html --json report.json
"""

from __future__ import annotations

import argparse
from pathlib import Path

from megabolt.cli import _options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("metrics", type=Path, nargs="+", metavar="S.metrics.json", help="metrics of the samples")
    parser.add_argument(
        "--comparisons", type=Path, nargs="*", default=[], metavar="S.compare.json", help="their accuracy"
    )
    parser.add_argument("-o", dest="page", type=Path, required=True, metavar="report.html", help="the page to write")
    parser.add_argument("--json", type=Path, metavar="report.json", help="also write this")


def main(args: argparse.Namespace) -> int:
    _options.check_output(args.page, (".html",))
    if args.json is not None:
        _options.check_output(args.json, (".json",))
    from megabolt.workflow.report import write_report

    write_report(args.metrics, args.comparisons, args.page, args.json)
    print(args.page)
    return 0
