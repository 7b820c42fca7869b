# SPDX-License-Identifier: Apache-2.0
"""How kernels are compiled: one decorator, one cache folder.

Numba keys its on-disk cache by the source of the *file* that holds a kernel. It does not see a change in a
callee that lives in another file, so the cache folder's name carries a digest of the modules whose inlined
functions cross files (`SHARED_CALLEES`). Anything else that one kernel calls must live in its own file.

Kernels have explicit signatures. Each is compiled, or loaded from the cache, when it is first called: loading
takes 6 ms, and most jobs need a third of the kernels.
"""

from __future__ import annotations

import functools
import hashlib
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

#: Modules whose functions, types or constants are compiled into kernels of other files.
SHARED_CALLEES = (
    "compute/jit.py",
    "compute/bits.py",
    "compute/simd.py",
    "align/packed.py",
    "align/table.py",
    "align/verify.py",
    "align/candidates.py",
    "align/choose.py",
    "align/extend.py",
    "align/split.py",
    "align/tails.py",
    "align/alignments.py",
    "simulate/draws.py",
    "simulate/slippage.py",
)


def cache_folder() -> Path:
    """Where compiled kernels are kept, unless $NUMBA_CACHE_DIR says: below $XDG_CACHE_HOME or ~/.cache."""
    package = Path(__file__).resolve().parent.parent
    digest = hashlib.sha256()
    for name in SHARED_CALLEES:
        source = package / name
        if source.exists():
            digest.update(source.read_bytes())
    # The lane count of every vector kernel, and whether kernels check bounds: Numba's own key has neither.
    for name in ("MEGABOLT_SIMD_BITS", "NUMBA_BOUNDSCHECK"):
        digest.update(f"{name}={os.environ.get(name, '')};".encode())
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return root / "megabolt" / f"kernels-{digest.hexdigest()[:12]}"


os.environ.setdefault("NUMBA_CACHE_DIR", str(cache_folder()))  # numba reads it when first imported

import numba  # noqa: E402
from numba import types  # noqa: E402
from numba.core.compiler_lock import global_compiler_lock  # noqa: E402
from numba.core.runtime import rtsys  # noqa: E402

numba.config.CACHE_DIR = os.environ["NUMBA_CACHE_DIR"]  # and it may have been imported before us

F = TypeVar("F", bound=Callable[..., Any])

#: Every kernel of the modules imported so far, for `compute.warmup`.
KERNELS: list[Kernel] = []
_loading = threading.RLock()  # of a kernel that calls another, both are loaded


class Kernel:
    """A function that is compiled for its signatures when it is first called.

    Attributes
    ----------
    py_func
        The Python function.
    signature
        Its Numba types, or a list of them.
    """

    def __init__(self, function: Callable[..., Any], signature: str | Any, fastmath: bool) -> None:
        self.py_func, self.signature, self._fastmath = function, signature, fastmath
        self._compiled: Callable[..., Any] | None = None
        functools.update_wrapper(self, function)
        KERNELS.append(self)

    def __call__(self, *arguments: Any) -> Any:
        compiled = self._compiled or self.load()
        return compiled(*arguments)

    @property
    def _numba_type_(self) -> types.Type:
        """How Numba sees this object in a kernel that calls it."""
        return numba.typeof(self.load())

    def load(self) -> Callable[..., Any]:
        """Compile the function or take it from the cache, unless that has been done."""
        with _loading:
            if self._compiled is None:
                signatures = self.signature if isinstance(self.signature, list) else [self.signature]
                made = numba.njit(nogil=True, cache=True, error_model="numpy", fastmath=self._fastmath)(self.py_func)
                if not _load_cached(made, signatures):
                    for signature in signatures:
                        made.compile(signature)
                made.disable_compile()
                self._compiled = made
            return self._compiled


def _load_cached(dispatcher: Any, signatures: Sequence[Any]) -> bool:
    """Whether Numba has a function in its cache for all signatures; then they are loaded.

    Before Numba looks into its cache, it lists all that it can compile: 0.25 s of each process, of which machine code
    needs nothing but the runtime. This is how `Dispatcher.compile` takes functions from the cache, without these lists.
    """
    try:
        context = dispatcher.targetctx
        with global_compiler_lock:
            context.refresh = functools.partial(rtsys.initialize, context)  # hides the method that lists
            try:
                found = [dispatcher._cache.load_overload(signature, context) for signature in signatures]
            finally:
                del context.refresh
            if any(one is None for one in found):
                return False
            for one in found:
                context.insert_user_function(one.entry_point, one.fndesc, [one.library])
                dispatcher.add_overload(one)
    except AttributeError:  # a Numba that does this in another way
        return False
    return True


def kernel(signature: str | Any, *, fastmath: bool = False) -> Callable[[F], F]:
    """Compile a function for the CPU: no GIL, cached on disk, C-like division, explicit signature.

    `fastmath` is for float kernels whose contract states a tolerance; integer kernels leave it off.
    """

    def decorate(function: F) -> F:
        lazy: Any = Kernel(function, signature, fastmath)
        return cast(F, lazy)

    return decorate


def inline(function: F) -> F:
    """Mark a small function that is inlined into the kernels that call it."""
    inlined: F = numba.njit(inline="always", error_model="numpy")(function)
    return inlined


def callee(function: F) -> F:
    """Mark a function that kernels call; LLVM decides whether to inline it.

    Without Numba's runtime it counts no references to the arrays it is handed. Counting is atomic, on a word that all
    threads share: it took a sixth of the aligner's time. Such a function must not allocate, nor return an array.
    """
    called: F = numba.njit(nogil=True, error_model="numpy", _nrt=False)(function)
    return called


def allocating_callee(function: F) -> F:
    """Mark a function that kernels call, not other callees, and that allocates arrays."""
    called: F = numba.njit(nogil=True, error_model="numpy")(function)
    return called
