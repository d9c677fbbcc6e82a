"""The diagrams of the documents as SVG: a site that is read without a network cannot fetch a renderer for Mermaid."""

from __future__ import annotations

import re
from collections.abc import Iterable
from html import escape

_ARROW = re.compile(r"^\s*(\[\*\]|\w+) --> (\[\*\]|\w+)\s*$", re.MULTILINE)
_WIDTH, _HEIGHT, _GAP_X, _GAP_Y = 140, 34, 26, 46
_STYLE = "font: 13px system-ui, sans-serif; fill: currentColor"


def draw(mermaid: str) -> str:
    """The SVG of a `flowchart` or `stateDiagram` that has nothing but arrows between names."""
    edges = [(start, "end" if end == "[*]" else end) for start, end in _ARROW.findall(mermaid)]
    edges = [("start" if start == "[*]" else start, end) for start, end in edges]
    rows = _rows(edges)
    places = _places(rows)
    width = max(len(row) for row in rows) * (_WIDTH + _GAP_X) + _GAP_X
    height = len(rows) * (_HEIGHT + _GAP_Y) + _GAP_Y // 2
    lines = [_edge(places[start], places[end]) for start, end in edges]
    boxes = [_box(name, *place) for name, place in places.items()]
    head = (
        '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0 8 4 0 8z" fill="currentColor"/></marker></defs>'
    )
    what = escape(", ".join(f"{start} to {end}" for start, end in edges))
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{what}" style="max-width: {width}px">{head}{"".join(lines + boxes)}</svg>'


def _rows(edges: Iterable[tuple[str, str]]) -> list[list[str]]:
    """The names in layers: each below all that lead to it, as far as there is no circle."""
    edges = list(edges)
    names = list(dict.fromkeys(name for edge in edges for name in edge))
    forward = _without_circles(names, edges)
    level = dict.fromkeys(names, 0)
    for _ in names:
        for start, end in forward:
            level[end] = max(level[end], level[start] + 1)
    rows: list[list[str]] = [[] for _ in range(max(level.values()) + 1)]
    for name in names:
        rows[level[name]].append(name)
    return rows


def _without_circles(names: list[str], edges: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The edges without those that lead back to where a search from the top has come from."""
    back: set[tuple[str, str]] = set()
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        if name in done:
            return
        for start, end in edges:
            if start == name:
                if end in (*path, name):
                    back.add((start, end))
                else:
                    visit(end, (*path, name))
        done.add(name)

    for name in names:
        visit(name, ())
    return [edge for edge in edges if edge not in back]


def _places(rows: list[list[str]]) -> dict[str, tuple[float, float]]:
    widest = max(len(row) for row in rows)
    places: dict[str, tuple[float, float]] = {}
    for number, row in enumerate(rows):
        left = _GAP_X + (widest - len(row)) * (_WIDTH + _GAP_X) / 2
        for position, name in enumerate(row):
            places[name] = left + position * (_WIDTH + _GAP_X), _GAP_Y // 2 + number * (_HEIGHT + _GAP_Y)
    return places


def _edge(start: tuple[float, float], end: tuple[float, float]) -> str:
    (x1, y1), (x2, y2) = start, end
    middle = _WIDTH / 2
    if y2 > y1:
        path = f"M{x1 + middle} {y1 + _HEIGHT}L{x2 + middle} {y2 - 2}"
    else:  # back up, or to the side: around the boxes
        path = f"M{x1 + _WIDTH} {y1 + _HEIGHT / 2}C{x1 + _WIDTH + 60} {y1} {x2 + _WIDTH + 60} {y2 + _HEIGHT} {x2 + _WIDTH + 2} {y2 + _HEIGHT / 2}"
    return f'<path d="{path}" fill="none" stroke="currentColor" stroke-opacity="0.55" marker-end="url(#head)"/>'


def _box(name: str, x: float, y: float) -> str:
    if name in ("start", "end"):
        return f'<circle cx="{x + _WIDTH / 2}" cy="{y + _HEIGHT / 2}" r="8" fill="currentColor"/>'
    return (
        f'<rect x="{x}" y="{y}" width="{_WIDTH}" height="{_HEIGHT}" rx="6" fill="var(--color-background-secondary, #8882)" stroke="currentColor"/>'
        f'<text x="{x + _WIDTH / 2}" y="{y + _HEIGHT / 2 + 4}" text-anchor="middle" style="{_STYLE}">{escape(name.lower())}</text>'
    )
