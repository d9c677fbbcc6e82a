"""Scales, ticks and the words for numbers. Invariant: any value has a place between 0 and 1, and a text."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta

import attrs

_STEPS = (1.0, 2.0, 5.0)
_SHORTEST = 1e-6
_LONGEST = 1e6
_MOST_TICKS = 6
NOTHING = "–"
"""What is shown for a number that is absent or not finite."""


def finite(value: object) -> float | None:
    """Return a number as a float that is finite and not negative; None for everything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return max(number, 0.0) if math.isfinite(number) else None


def whole(value: object) -> int:
    """Return a count; 0 for what is not one."""
    return int(finite(value) or 0)


@attrs.frozen
class LogScale:
    """A logarithmic scale of seconds. Zero is at its low end."""

    low: float
    """The least value, of the form 1, 2 or 5 times a power of ten."""
    high: float
    """The greatest value, of the same form; greater than `low`."""

    @classmethod
    def around(cls, values: Iterable[object]) -> LogScale:
        """Return the narrowest scale that holds all values that are greater than 0; from 1 ms to 1 s without any."""
        known = [min(max(number, _SHORTEST), _LONGEST) for value in values if (number := finite(value))]
        if not known:
            return cls(1e-3, 1.0)
        low, high = _round_down(min(known)), _round_up(max(known))
        return cls(low, high) if high > low * 4.9 else cls(_round_down(low * 0.45), _round_up(high * 2.2))

    def place(self, value: object) -> float:
        """Return where a value is: 0 at the low end, 1 at the high end."""
        number = finite(value)
        if not number:
            return 0.0
        return min(max(math.log(number / self.low) / math.log(self.high / self.low), 0.0), 1.0)

    def ticks(self) -> list[float]:
        """Return a few round values, in order: powers of ten, and more between them on a short scale."""
        found = [value for value in _round_values(self.low, self.high) if _mantissa(value) == 1.0]
        if len(found) < 3:
            found = list(_round_values(self.low, self.high))
        return found[:: max(1, math.ceil(len(found) / _MOST_TICKS))]


def _mantissa(value: float) -> float:
    return round(value / 10.0 ** math.floor(math.log10(value) + 1e-9), 6)


def _round_values(low: float, high: float) -> list[float]:
    """Return the values 1, 2 and 5 times a power of ten from `low` to `high`."""
    first, last = math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9)
    values = [step * 10.0**power for power in range(first, last + 1) for step in _STEPS]
    return [value for value in values if low * 0.999999 <= value <= high * 1.000001]


def _round_down(value: float) -> float:
    power = 10.0 ** math.floor(math.log10(value))
    return max([step * power for step in _STEPS if step * power <= value * 1.000001], default=power)


def _round_up(value: float) -> float:
    power = 10.0 ** math.floor(math.log10(value))
    return min([step * power for step in (*_STEPS, 10.0) if step * power >= value * 0.999999], default=10 * power)


def linear_ticks(highest: float, most: int = 4) -> list[float]:
    """Return round values from 0 to the first that is not below `highest`, at most `most` + 2 of them. 0 and 1 without a range."""
    if not (number := finite(highest)):
        return [0.0, 1.0]
    number = min(max(number, 1e-9), 1e18)
    power = 10.0 ** math.floor(math.log10(number / most))
    step = next((factor * power for factor in (1.0, 2.0, 5.0, 10.0) if number / (factor * power) <= most), 10 * power)
    return [index * step for index in range(math.ceil(number / step * 0.999999) + 1)]


def pick(count: int, most: int) -> list[int]:
    """Return at most `most` indexes below `count` in equal steps, the first one among them."""
    step = max(1, math.ceil(count / most))
    return list(range(0, count, step))


# ---- words -------------------------------------------------------------------------------------------------------------------


def seconds(value: object) -> str:
    """Return a duration in three digits, with its unit."""
    number = finite(value)
    if number is None:
        return NOTHING
    if number == 0:
        return "0 s"
    for limit, factor, unit in ((1e-3, 1e6, "µs"), (1.0, 1e3, "ms"), (100.0, 1.0, "s"), (6000.0, 1 / 60, "min")):
        if number < limit * 0.9995:
            return f"{_three_digits(number * factor)} {unit}"
    return f"{_three_digits(number / 3600)} h"


def tick_seconds(value: float) -> str:
    """Return a round duration for an axis, without digits that say nothing."""
    number, _, unit = seconds(value).partition(" ")
    return f"{number.rstrip('0').rstrip('.') if '.' in number else number} {unit}"


def _three_digits(number: float) -> str:
    if number >= 99.95:
        return f"{number:,.0f}"
    return f"{number:.1f}" if number >= 9.995 else f"{number:.2f}"


def count(value: object) -> str:
    """Return a count with commas."""
    number = finite(value)
    return NOTHING if number is None else f"{number:,.0f}"


def short_count(value: object) -> str:
    """Return a count in few characters: 940, 1.2k, 35k, 2.5M."""
    number = finite(value)
    if number is None:
        return NOTHING
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= limit:
            return f"{number / limit:.3g}{unit}" if number < limit * 1e3 else f"{number / limit:,.0f}{unit}"
    return f"{number:g}"


def size(value: object) -> str:
    """Return a number of bytes with its unit, in powers of 1000."""
    number = finite(value)
    if number is None:
        return NOTHING
    for limit, unit in ((1e15, "PB"), (1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if number >= limit:
            return f"{_three_digits(number / limit)} {unit}"
    return f"{number:,.0f} B"


def share(part: object, total: object) -> str:
    """Return a part of a total in percent."""
    above, below = finite(part), finite(total)
    if above is None or not below:
        return NOTHING
    percent = 100 * above / below
    if 0 < percent < 0.1:
        return "<0.1 %"
    return f"{percent:.1f} %" if percent < 99.95 or percent == 100 else f"{min(percent, 99.9) if above < below else percent:.1f} %"


def moment(value: object) -> datetime | None:
    """Return a time in ISO 8601 as a datetime in UTC; None if it is not one."""
    try:
        parsed = datetime.fromisoformat(str(value))
        return parsed.replace(tzinfo=UTC) if parsed.tzinfo is None else parsed.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def date_and_time(value: object) -> str:
    """Return a time for readers, in UTC; a text that is not a time as it is."""
    when = moment(value)
    return when.strftime("%d %B %Y, %H:%M:%S UTC").lstrip("0") if when else str(value) if value else NOTHING


def span_words(values: Sequence[object]) -> str:
    """Return the two ends of a span, the day only once if it is the same, and the time between."""
    begin, end = [*values, None, None][:2]
    first, last = moment(begin), moment(end)
    if first is None or last is None:
        return " to ".join(date_and_time(value) for value in (begin, end) if value) or "no transactions"
    to = last.strftime("%H:%M:%S UTC") if first.date() == last.date() else date_and_time(end)
    since = date_and_time(begin).removesuffix(" UTC")
    return f"{since} – {to} ({_long(last - first)})"


def _long(length: timedelta) -> str:
    total = max(int(length.total_seconds()), 0)
    days, hours, minutes, rest = total // 86400, total // 3600 % 24, total // 60 % 60, total % 60
    words = [f"{number} {unit}" for number, unit in ((days, "d"), (hours, "h"), (minutes, "min"), (rest, "s")) if number]
    return " ".join(words[:2]) or "less than 1 s"


def clock_labels(values: Sequence[object]) -> list[str]:
    """Return short labels for moments on an axis: the time, with seconds or with the day where the span needs it."""
    moments = [moment(value) for value in values]
    known = [when for when in moments if when]
    length = (max(known) - min(known)).total_seconds() if known else 0.0
    form = "%d %b" if length > 10 * 86400 else "%d %b %H:%M" if length > 86400 else "%H:%M" if length > 1200 else "%H:%M:%S"
    return [when.strftime(form) if when else NOTHING for when in moments]
