# SPDX-License-Identifier: Apache-2.0
"""Every device source compiles: by NVRTC for several GPU generations (no GPU needed), and by PoCL with -Werror."""

from __future__ import annotations

from typing import Any

import pytest

from megabolt.compute import sources
from megabolt.compute.backend import Backend
from megabolt.compute.cuda_device import BUILD_OPTIONS
from megabolt.compute.device import open_device
from megabolt.errors import InternalError


@pytest.fixture(scope="module")
def nvrtc() -> Any:
    """CuPy's low-level binding: unlike cupy.RawModule it asks for no device. It finds the library of the
    package nvidia-cuda-nvrtc by itself, and says which name it looked for when it cannot."""
    from cupy_backends.cuda.libs import nvrtc

    nvrtc.getVersion()  # loads the library, or raises
    return nvrtc


def compile_cuda(nvrtc: Any, text: str, architecture: str) -> Any:
    """The program; a failure is an assertion that shows the compiler's log."""
    program = nvrtc.createProgram(text, "megabolt.cu", (), ())
    try:
        nvrtc.compileProgram(program, (f"--gpu-architecture={architecture}", *BUILD_OPTIONS))
    except nvrtc.NVRTCError:
        raise AssertionError(nvrtc.getProgramLog(program)) from None
    return program


@pytest.mark.parametrize("architecture", ["compute_80", "compute_90"])
@pytest.mark.parametrize("algorithm", sources.algorithms())
def test_cuda_to_ptx(nvrtc: Any, algorithm: str, architecture: str) -> None:
    program = compile_cuda(nvrtc, sources.text(algorithm, "cuda"), architecture)
    ptx = nvrtc.getPTX(program)
    text = ptx.decode() if isinstance(ptx, bytes) else ptx
    assert f".entry {algorithm}(" in text


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
@pytest.mark.parametrize("algorithm", sources.algorithms())
def test_cuda_to_machine_code(nvrtc: Any, algorithm: str, architecture: str) -> None:
    program = compile_cuda(nvrtc, sources.text(algorithm, "cuda"), architecture)
    assert nvrtc.getCUBIN(program)[:4] == b"\x7fELF"


def test_cuda_errors_name_the_true_file_and_line(nvrtc: Any) -> None:
    text = sources.text("pairhmm", "cuda").replace("const int pair = GROUP_ID", "const int pair = GRUOP_ID")
    lines = (sources.folder() / "pairhmm.h").read_text().splitlines()
    line = 1 + next(i for i, content in enumerate(lines) if "const int pair = GROUP_ID" in content)
    with pytest.raises(AssertionError, match=rf"kernels/pairhmm\.h\({line}\).*GRUOP_ID"):
        compile_cuda(nvrtc, text, "compute_80")


@pytest.mark.parametrize("algorithm", sources.algorithms())
def test_opencl_without_warnings(algorithm: str) -> None:
    program = open_device(Backend.OPENCL).compile(algorithm, "-Werror")  # type: ignore[attr-defined]
    assert algorithm in program.kernel_names


def test_opencl_errors_are_internal_and_name_the_true_file(monkeypatch: pytest.MonkeyPatch) -> None:
    text = sources.text("pairhmm", "opencl").replace("const int pair = GROUP_ID", "const int pair = GRUOP_ID")
    monkeypatch.setattr(sources, "text", lambda algorithm, dialect: text)
    with pytest.raises(InternalError, match=r"kernels/pairhmm\.h:\d+.*GRUOP_ID"):
        open_device(Backend.OPENCL).compile("pairhmm")  # type: ignore[attr-defined]
