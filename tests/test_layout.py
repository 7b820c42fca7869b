# SPDX-License-Identifier: Apache-2.0
"""The shape of the source tree: who may import whom, licence lines, complete algorithms, safe kernel
caches."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from megabolt.compute.jit import SHARED_CALLEES

CHECKOUT = Path(__file__).resolve().parent.parent
PACKAGE = CHECKOUT / "megabolt"

#: Package -> packages it may import from; the arrows of docs/ARCHITECTURE.md.
ARROWS = {
    "privacy": {"errors"},
    "compute": {"errors"},
    "formats": {"errors", "privacy", "compute"},
    "align": {"errors", "privacy", "compute", "formats"},
    "reads": {"errors", "privacy", "compute", "formats", "align"},
    "paralogs": {"errors", "privacy", "compute", "formats", "align"},
    "metrics": {"errors", "privacy", "compute", "formats"},
    "recalibrate": {"errors", "privacy", "compute", "formats"},
    "call": {"errors", "privacy", "compute", "formats"},
    "joint": {"errors", "privacy", "compute", "formats"},
    "compare": {"errors", "privacy", "compute", "formats"},
    "simulate": {"errors", "privacy", "compute", "formats"},
}
ARROWS["workflow"] = {"errors", *ARROWS}
ARROWS["testing"] = {"errors", *ARROWS}
ARROWS["cli"] = {"errors", *ARROWS}

MODULES = sorted(PACKAGE.rglob("*.py"))
ALGORITHMS = sorted(path.parent.name for path in PACKAGE.glob("compute/*/__init__.py"))

#: Decorators of megabolt.compute.jit whose functions end up in compiled kernels.
COMPILED = {"kernel", "inline", "callee"}


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports_of(path: Path) -> Iterator[tuple[str, str, str]]:
    """(module, name, local name) of everything imported from megabolt; the name is empty for whole
    modules."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "megabolt":
            for alias in node.names:
                yield str(node.module), alias.name, alias.asname or alias.name
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "megabolt":
                    yield alias.name, "", alias.asname or "megabolt"


def is_module(dotted: str) -> bool:
    path = CHECKOUT.joinpath(*dotted.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def package_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else ""


def short(path: Path) -> str:
    return str(path.relative_to(CHECKOUT))


@pytest.mark.parametrize("package", sorted(ARROWS))
def test_arrows(package: str) -> None:
    wrong = []
    for path in MODULES:
        if package_of(path) != package:
            continue
        for module, name, _ in imports_of(path):
            words = (module if module != "megabolt" else f"megabolt.{name}").split(".")
            target = words[1]
            if target not in {package, "__version__", *ARROWS[package]}:
                wrong.append(f"{short(path)} imports {'.'.join(words)}")
    assert not wrong


def test_every_package_has_its_arrows() -> None:
    packages = {package_of(path) for path in MODULES} - {""}
    assert packages == set(ARROWS)


def test_licence_lines() -> None:
    folders = ("megabolt", "tests", "benchmarks", "workflows", "kernels")
    names = ("*.py", "*.smk", "Snakefile", "*.yaml", "*.h")
    files = [path for folder in folders for name in names for path in (CHECKOUT / folder).rglob(name)]
    files += [CHECKOUT / "Makefile", CHECKOUT / ".ci/run"]
    missing = []
    for path in files:
        top = path.read_text(encoding="utf-8").splitlines()[:2]
        if not any("SPDX-License-Identifier: Apache-2.0" in line for line in top):
            missing.append(short(path))
    assert not missing


def test_every_module_says_what_it_is() -> None:
    trees = {short(path): tree_of(path) for path in MODULES}
    assert [name for name, tree in trees.items() if tree.body and not ast.get_docstring(tree)] == []


def test_test_files_have_distinct_names() -> None:
    names = [path.name for path in (CHECKOUT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_each_algorithm_is_complete(algorithm: str) -> None:
    """Contract, plain reference, processor kernel, device text with its launcher, parity test, row in the
    table."""
    pieces = [
        f"megabolt/compute/{algorithm}/__init__.py",
        f"megabolt/compute/{algorithm}/reference.py",
        f"megabolt/compute/{algorithm}/numba_cpu.py",
        f"megabolt/compute/{algorithm}/launch.py",
        f"kernels/{algorithm}.h",
        f"tests/parity/test_{algorithm}.py",
    ]
    assert [piece for piece in pieces if not (CHECKOUT / piece).is_file()] == []
    assert f"`{algorithm}`" in (CHECKOUT / "kernels/README.md").read_text()


def test_documents_name_files_that_exist() -> None:
    text = (CHECKOUT / "docs/ARCHITECTURE.md").read_text(encoding="utf-8")
    named = re.findall(r"`([a-z_]+/[a-z_/]*(?:\.py)?)`", text)
    assert len(named) > 20
    assert [name for name in named if not ((PACKAGE / name).exists() or (CHECKOUT / name).exists())] == []
    table = (CHECKOUT / "kernels/README.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#:]+)\)", table)
    assert [link for link in links if not (CHECKOUT / "kernels" / link).exists()] == []


def test_there_are_algorithms() -> None:
    assert {"pairhmm", "banded_affine"} <= set(ALGORITHMS)


def test_only_compute_knows_devices() -> None:
    vendors = {"cupy", "cupy_backends", "pyopencl"}
    wrong = []
    for path in MODULES:
        if package_of(path) == "compute":
            continue
        for node in ast.walk(tree_of(path)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            wrong += [f"{short(path)}: {name}" for name in names if name.split(".")[0] in vendors]
    assert not wrong


def compiled_functions(tree: ast.Module) -> Iterator[ast.FunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            for decorator in node.decorator_list:
                called = decorator.func if isinstance(decorator, ast.Call) else decorator
                if isinstance(called, ast.Name) and called.id in COMPILED:
                    yield node


@pytest.mark.parametrize("path", MODULES, ids=short)
def test_kernels_take_from_other_files_only_what_the_cache_knows(path: Path) -> None:
    """Numba's cache sees changes in a kernel's own file only; SHARED_CALLEES are part of the cache folder's
    name."""
    known = {"megabolt." + name.removesuffix(".py").replace("/", ".") for name in SHARED_CALLEES}
    foreign = {}
    for module, name, local in imports_of(path):
        source = f"{module}.{name}" if is_module(f"{module}.{name}") else module
        if source not in known:
            foreign[local] = f"{module}.{name}"
    wrong = []
    for function in compiled_functions(tree_of(path)):
        for statement in function.body:
            for node in ast.walk(statement):
                if isinstance(node, ast.Name) and node.id in foreign:
                    wrong.append(f"{function.name}, line {node.lineno}: {foreign[node.id]}")
    assert not wrong
