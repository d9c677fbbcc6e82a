"""A seed for trio's scheduler, so that a run can be repeated step by step.

trio shuffles the runnable tasks with a private random generator. Only this module uses it. If a version of trio does not have it,
`seeded_schedule` raises `RuntimeError`.
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
    """Schedule the tasks of trio runs in this block in an order that depends only on `seed`. Threads are not covered.

    Raises `RuntimeError` if this version of trio has no such generator.
    """
    generator = getattr(_scheduler, "_r", None)
    if not isinstance(generator, random.Random) or not hasattr(_scheduler, "_ALLOW_DETERMINISTIC_SCHEDULING"):
        raise RuntimeError("cannot seed the scheduler of this version of trio: it has no random generator with the expected name")
    state, deterministic = generator.getstate(), _scheduler._ALLOW_DETERMINISTIC_SCHEDULING
    generator.seed(seed)
    _scheduler._ALLOW_DETERMINISTIC_SCHEDULING = True  # sort tasks by spawn order before the shuffle: they are in a set
    try:
        yield
    finally:
        _scheduler._ALLOW_DETERMINISTIC_SCHEDULING = deterministic
        generator.setstate(state)
