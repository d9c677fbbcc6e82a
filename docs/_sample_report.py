"""Data for a report, made up and always the same, for the pictures and the tests of it."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from typing import Any

_START = datetime(2026, 11, 22, 18, 0, tzinfo=UTC)
_STATES = ("read_request", "remap", "acquire_origin", "send_request", "read_response", "send_response", "release")
_SHARES = (0.03, 0.04, 0.12, 0.05, 0.58, 0.16, 0.02)


def sample() -> dict[str, Any]:
    """Return an hour of the traffic of a shop, with an origin that is slow for a few minutes."""
    return {
        "title": "shop.example",
        "generated": "2026-11-22T19:04:10Z",
        "span": [_START.isoformat(), (_START + timedelta(hours=1)).isoformat()],
        "totals": {
            "transactions": 182_940,
            "roots": 121_366,
            "internal": 61_574,
            "errors": 1_287,
            "request_bytes": 84_220_112,
            "response_bytes": 3_481_990_221,
        },
        "connections": [
            {"protocol": "h2", "connections": 2_904, "transactions": 96_711},
            {"protocol": "http/1.1", "connections": 4_120, "transactions": 23_802},
            {"protocol": "http/1.0", "connections": 211, "transactions": 211},
            {"protocol": "internal/auth_request", "connections": 642, "transactions": 58_310},
            {"protocol": "internal/prefetch", "connections": 88, "transactions": 3_264},
        ],
        "streams_histogram": [
            {"low": low, "high": high, "connections": count}
            for low, high, count in (
                (1, 1, 214), (2, 3, 380), (4, 7, 512), (8, 15, 704), (16, 31, 521), (32, 63, 318), (64, 127, 174), (128, 255, 66),
                (256, 511, 13), (512, 1023, 2),
            )
        ],
        "latency_by_tag": [
            {"tag": "h2", "count": 96_711, "p50": 0.018, "p90": 0.074, "p99": 0.41, "max": 12.4},
            {"tag": "auth_request", "count": 58_310, "p50": 0.0021, "p90": 0.0049, "p99": 0.022, "max": 0.95},
            {"tag": None, "count": 24_013, "p50": 0.024, "p90": 0.11, "p99": 0.83, "max": 30.0},
            {"tag": "prefetch", "count": 3_264, "p50": 0.046, "p90": 0.18, "p99": 0.77, "max": 2.1},
            {"tag": "nightly-export", "count": 642, "p50": 0.38, "p90": 1.2, "p99": 4.6, "max": 6.2},
        ],
        "over_time": _over_time(),
        "statuses": [
            {"status": "200", "count": 158_202}, {"status": "304", "count": 14_870}, {"status": "204", "count": 6_114},
            {"status": "404", "count": 2_010}, {"status": "502", "count": 611}, {"status": "504", "count": 498},
            {"status": "none", "count": 457}, {"status": "503", "count": 178},
        ],
        "causes": [
            {"by": "proxy", "why": "complete", "count": 178_204}, {"by": "plugin", "why": "responded", "count": 2_992},
            {"by": "origin", "why": "origin_refused", "count": 611}, {"by": "origin", "why": "origin_response_timeout", "count": 498},
            {"by": "client", "why": "client_gone", "count": 457}, {"by": "proxy", "why": "origin_busy", "count": 178},
        ],
        "slowest": _slowest(),
        "tree": _tree(),
    }  # fmt: skip


def _over_time() -> list[dict[str, Any]]:
    chance = random.Random(7)
    rows = []
    for minute in range(60):
        slow = 6.0 if 34 <= minute <= 39 else 1.0
        total = round(3050 + 500 * chance.uniform(-1, 1) + 12 * minute)
        rows.append(
            {
                "start": (_START + timedelta(minutes=minute)).isoformat(),
                "transactions": total,
                "errors": round(total * (0.052 if slow > 1 else 0.0025 * chance.random())),
                "p50": 0.014 * slow**0.5 * chance.uniform(0.85, 1.2),
                "p99": 0.36 * slow * chance.uniform(0.7, 1.6),
            }
        )
    return rows


def _slowest() -> list[dict[str, Any]]:
    rows = (
        (90113, 90113, "POST", "https://shop.example/report/export?from=2026-01-01&to=2026-11-22", 504, None, 30.0),
        (91207, 91207, "GET", "https://shop.example/search?q=winter+coat&sort=price&page=3", 200, "h2", 12.41),
        (91411, 91411, "GET", "https://shop.example/search?q=boots", 200, "h2", 9.83),
        (92008, 92008, "GET", "https://shop.example/cart", 502, "h2", 8.02),
        (12007, 12007, "GET", "https://shop.example/export/orders.csv", 200, "nightly-export", 6.2),
        (91999, 91999, "PUT", "https://shop.example/cart/items/8813", None, "h2", 5.77),
        (93340, 93340, "GET", "https://shop.example/product/8813/reviews", 200, "h2", 5.12),
        (93341, 93340, "GET", "http://prices.internal/quote?sku=8813", 200, "prefetch", 2.1),
        (94010, 94010, "GET", "https://shop.example/product/17", 200, "h2", 1.94),
        (94012, 94010, "GET", "http://auth.internal/verify", 200, "auth_request", 0.95),
    )
    names = ("transaction", "root", "method", "url", "status", "tag", "seconds")
    return [dict(zip(names, row, strict=True)) for row in rows]


def _node(number: int, label: str, start: float, seconds: float, critical: bool, *children: dict[str, Any]) -> dict[str, Any]:
    states, at = [], start
    for name, share in zip(_STATES, _SHARES, strict=True):
        states.append({"name": name, "start": at, "seconds": seconds * share})
        at += seconds * share
    node = {"transaction": number, "label": label, "start": start, "seconds": seconds, "states": states}
    return node | {"critical": critical, "children": list(children)}


def _tree() -> dict[str, Any]:
    quotes = [_node(93345 + index, f"GET prices.internal/quote/{8813 + index}", 0.31 + 0.05 * index, 0.2, False) for index in range(3)]
    slow = _node(93348, "GET prices.internal/quote/8816", 0.42, 1.21, True)
    return _node(
        93340,
        "GET shop.example/product/8813",
        0.0,
        1.94,
        True,
        _node(93341, "GET auth.internal/verify", 0.04, 0.19, True),
        _node(93342, "GET catalog.internal/product/8813", 0.26, 0.34, False),
        _node(93343, "GET prices.internal/all?sku=8813", 0.26, 1.48, True, *quotes, slow),
        _node(93344, "GET reviews.internal/8813?limit=20", 0.27, 0.71, False),
    )
