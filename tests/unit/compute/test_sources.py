# SPDX-License-Identifier: Apache-2.0
"""Device sources are found, and every algorithm has all its pieces."""

from __future__ import annotations

from pathlib import Path

import pytest

from megabolt.compute import sources
from megabolt.errors import InternalError


def test_text_is_dialect_then_source_each_with_its_true_name() -> None:
    text = sources.text("pairhmm", "opencl")
    first, second = text.index('#line 1 "kernels/dialect/opencl.h"'), text.index('#line 1 "kernels/pairhmm.h"')
    assert first == 0 < second < text.index("KERNEL pairhmm(")


def test_an_unknown_algorithm() -> None:
    with pytest.raises(InternalError, match=r"no device source mapping\.h"):
        sources.text("mapping", "cuda")


def test_a_package_without_sources(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sources, "__file__", str(tmp_path / "megabolt" / "compute" / "sources.py"))
    with pytest.raises(InternalError, match="no device sources"):
        sources.folder.__wrapped__()


def test_the_wheel_comes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for folder in ("megabolt/_kernels/dialect", "kernels/dialect"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.setattr(sources, "__file__", str(tmp_path / "megabolt" / "compute" / "sources.py"))
    assert sources.folder.__wrapped__() == (tmp_path / "megabolt" / "_kernels").resolve()


def test_dialects_define_the_same_words() -> None:
    words = []
    for dialect in sources.DIALECTS:
        lines = (sources.folder() / "dialect" / f"{dialect}.h").read_text().splitlines()
        defined = [line.split()[1].split("(")[0] for line in lines if line.startswith("#define")]
        named = [line.split(";")[0].split()[-1] for line in lines if line.startswith("typedef")]
        words.append((defined, named))
    assert words[0] == words[1]


@pytest.mark.parametrize("algorithm", sources.algorithms())
def test_algorithm_is_complete(checkout: Path, algorithm: str) -> None:
    package = checkout / "megabolt" / "compute" / algorithm
    pieces = [package / name for name in ("__init__.py", "reference.py", "numba_cpu.py", "launch.py")]
    pieces.append(checkout / "tests" / "parity" / f"test_{algorithm}.py")
    pieces.append(checkout / "benchmarks" / "kernels" / f"bench_{algorithm}.py")
    missing = [str(piece.relative_to(checkout)) for piece in pieces if not piece.is_file()]
    assert not missing
    assert f"| `{algorithm}` |" in (checkout / "kernels" / "README.md").read_text()


def test_every_word_of_the_dialect_is_used(checkout: Path) -> None:
    text = "".join((sources.folder() / f"{one}.h").read_text() for one in sources.algorithms())
    dialect = (sources.folder() / "dialect" / "cuda.h").read_text().splitlines()
    unused = [
        word
        for line in dialect
        if line.startswith("#define")
        for word in [line.split()[1].split("(")[0]]
        if word not in text
    ]
    assert not unused
