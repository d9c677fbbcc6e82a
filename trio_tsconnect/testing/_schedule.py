"""A seed for trio's scheduler, so that a run can be repeated step by step.

Trio shuffles the tasks that are ready with a random generator that has no public name. This module is the only one that touches it; should a
version of trio not have it any more, `seeded_schedule` says so, and runs are then merely not repeatable.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from trio._core import _run

_scheduler: Any = _run


@contextmanager
def seeded_schedule(seed: int) -> Iterator[None]:
    """Order the tasks of the trio runs in this block by `seed`: the same seed, the same order. Not for threads beside them.

    `RuntimeError` where this version of trio has no such generator.
    """
    generator = getattr(_scheduler, "_r", None)
    if not isinstance(generator, random.Random) or not hasattr(_scheduler, "_ALLOW_DETERMINISTIC_SCHEDULING"):
        raise RuntimeError("this version of trio has no scheduler that could be given a seed")
    state, deterministic = generator.getstate(), _scheduler._ALLOW_DETERMINISTIC_SCHEDULING
    generator.seed(seed)
    _scheduler._ALLOW_DETERMINISTIC_SCHEDULING = True  # the order in which tasks were spawned, not that of a set of objects
    try:
        yield
    finally:
        _scheduler._ALLOW_DETERMINISTIC_SCHEDULING = deterministic
        generator.setstate(state)
