# SPDX-License-Identifier: Apache-2.0
"""Random numbers inside kernels: a generator of 64 bits of state, seeded by what is drawn and for which pair.

In: uint64 [1] state. Out: random bits, uniform numbers, waiting times. Next: reads, slippage.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from megabolt.compute.jit import inline

U = np.uint64


@inline
def mix(word: Any) -> Any:
    """The splitmix64 finaliser: neighbours become unrelated words."""
    word = (word ^ (word >> U(30))) * U(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> U(27))) * U(0x94D049BB133111EB)
    return word ^ (word >> U(31))


@inline
def draw(state: Any) -> Any:
    """The next 64 random bits; state is uint64 [1]."""
    state[0] += U(0x9E3779B97F4A7C15)
    return mix(state[0])


@inline
def uniform(state: Any) -> Any:
    """Uniform in (0, 1): never 0, so that its logarithm exists."""
    return (float(draw(state) >> U(11)) + 0.5) * (1.0 / 9007199254740992.0)


@inline
def seed_for(state: Any, seed: Any, ordinal: Any, stream: Any) -> Any:
    """Start the generator of one pair and one purpose: `stream` is 0 to 3."""
    state[0] = mix(seed + mix(U(ordinal) * U(4) + U(stream) + U(0x9E3779B97F4A7C15)))


@inline
def waiting_time(state: Any, rate: Any) -> Any:
    """Bases until the next event of a rare kind (geometric)."""
    if rate <= 0.0:
        return 1 << 30
    return int(min(math.log(uniform(state)) / math.log1p(-rate), 1e9))
