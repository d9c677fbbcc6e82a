"""The two ways in which a peer can be at fault (RFC 9113 §5.4), as exceptions that carry the code that is sent and the cause that is logged."""

from __future__ import annotations

import enum


class ErrorCode(enum.IntEnum):
    """RFC 9113 §7."""

    NO_ERROR = 0x0
    PROTOCOL_ERROR = 0x1
    INTERNAL_ERROR = 0x2
    FLOW_CONTROL_ERROR = 0x3
    SETTINGS_TIMEOUT = 0x4
    STREAM_CLOSED = 0x5
    FRAME_SIZE_ERROR = 0x6
    REFUSED_STREAM = 0x7
    CANCEL = 0x8
    COMPRESSION_ERROR = 0x9
    CONNECT_ERROR = 0xA
    ENHANCE_YOUR_CALM = 0xB
    INADEQUATE_SECURITY = 0xC
    HTTP_1_1_REQUIRED = 0xD


def code_name(code: int) -> str:
    """The name of an error code, for a log; unknown ones are told as numbers (RFC 9113 §7 allows any)."""
    try:
        return ErrorCode(code).name
    except ValueError:
        return f"0x{code:x}"


class ConnectionFault(Exception):
    """Ends the connection with a GOAWAY (RFC 9113 §5.4.1)."""

    def __init__(self, code: int, detail: str, cause: str = "protocol_error") -> None:
        super().__init__(f"{code_name(code)}: {detail}")
        self.code = code
        self.detail = detail
        self.cause = cause


class StreamFault(Exception):
    """Ends one stream with a RST_STREAM (RFC 9113 §5.4.2)."""

    def __init__(self, code: int, detail: str, cause: str = "malformed_request") -> None:
        super().__init__(f"{code_name(code)}: {detail}")
        self.code = code
        self.detail = detail
        self.cause = cause
