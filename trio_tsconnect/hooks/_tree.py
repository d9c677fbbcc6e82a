"""`TreeNode`: one transaction that is alive, with those that it has opened."""

from __future__ import annotations

import attrs

from trio_tsconnect._util import public


@public("trio_tsconnect")
@attrs.frozen(kw_only=True)
class TreeNode:
    """One transaction that is alive."""

    transaction: int
    """Its number."""
    session: int
    """That of its session."""
    state: str
    """Where it stands."""
    method: str | None
    """The method, once it is known."""
    url: str | None
    """The target, once it is known."""
    client: str
    """On whose behalf it is."""
    tag: str | None
    """The opener's tag."""
    id: int
    """The opener's number."""
    age: float
    """Seconds since it began."""
    deadline_left: float | None
    """Seconds until the end of the whole; None without one."""
    buffered: int
    """Bytes that wait in the session and in its virtual connection."""
    children: tuple[TreeNode, ...]
    """The transactions it has opened."""

    def to_text(self, depth: int = 0) -> str:
        """One line for each transaction, indented by depth."""
        left = "" if self.deadline_left is None else f", {self.deadline_left:.1f} s left"
        tag = f" tag={self.tag} id={self.id}" if self.tag or self.id else ""
        line = f"{'  ' * depth}#{self.transaction} {self.method or '-'} {self.url or '-'} [{self.state}]{tag} {self.age:.1f} s{left}, {self.buffered} B"
        return "\n".join([line, *(child.to_text(depth + 1) for child in self.children)])
