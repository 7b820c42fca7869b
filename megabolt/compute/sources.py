# SPDX-License-Identifier: Apache-2.0
"""Device sources: where they lie, and how one becomes a compilable text.

An installed wheel carries them as `megabolt/_kernels`; a checkout has them in `kernels/`. Only this module
knows.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from megabolt.errors import InternalError

DIALECTS = ("cuda", "opencl")


@cache
def folder() -> Path:
    """The folder of the device sources: the wheel's first, else the checkout's."""
    package = Path(__file__).resolve().parent.parent
    for candidate in (package / "_kernels", package.parent / "kernels"):
        if (candidate / "dialect").is_dir():
            return candidate
    raise InternalError(f"no device sources beside {package}", "Install megabolt again; the package is incomplete.")


def algorithms() -> list[str]:
    """Names of all device sources, such as "pairhmm"."""
    return sorted(path.stem for path in folder().glob("*.h"))


@cache
def text(algorithm: str, dialect: str) -> str:
    """The source of an algorithm with its dialect in front; compile errors name the true file and line."""
    parts = []
    for name in (f"dialect/{dialect}.h", f"{algorithm}.h"):
        path = folder() / name
        if not path.is_file():
            raise InternalError(f"there is no device source {name} in {folder()}")
        parts.append(f'#line 1 "kernels/{name}"\n{path.read_text(encoding="utf-8")}')
    return "\n".join(parts)
