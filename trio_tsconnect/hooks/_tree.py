"""`TreeNode`: a transaction in progress, with its child transactions."""

from __future__ import annotations

import attrs

from trio_tsconnect._util import public


@public("trio_tsconnect")
@attrs.frozen(kw_only=True)
class TreeNode:
    """A transaction in progress."""

    transaction: int
    """Number of the transaction."""
    session: int
    """Number of its session."""
    state: str
    """State of the transaction."""
    method: str | None
    """Request method; None until it is known."""
    url: str | None
    """URL that the client asks for; the target as received if it is not valid; None until it is known."""
    client: str
    """Address of the client that the request is made for."""
    tag: str | None
    """Tag given by the opener of the connection."""
    id: int
    """Number given by the opener of the connection; 0 means not set."""
    age: float
    """Seconds since the transaction started."""
    deadline_left: float | None
    """Seconds until the deadline of the transaction; None if there is none."""
    buffered: int
    """Bytes buffered for the client, for the origin, and in the virtual connection."""
    children: tuple[TreeNode, ...]
    """Transactions on connections that this one opened."""

    def to_text(self, depth: int = 0) -> str:
        """Return one line per transaction, indented by depth."""
        left = "" if self.deadline_left is None else f", {self.deadline_left:.1f} s left"
        tag = f" tag={self.tag} id={self.id}" if self.tag or self.id else ""
        line = f"{'  ' * depth}#{self.transaction} {self.method or '-'} {self.url or '-'} [{self.state}]{tag} {self.age:.1f} s{left}, {self.buffered} B"
        return "\n".join([line, *(child.to_text(depth + 1) for child in self.children)])
