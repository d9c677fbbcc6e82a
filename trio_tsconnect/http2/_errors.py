"""Connection errors and stream errors (RFC 9113 §5.4), as exceptions. Each carries the error code to send and the cause to log."""

from __future__ import annotations

import enum


class ErrorCode(enum.IntEnum):
    """Error codes of RST_STREAM and GOAWAY (RFC 9113 §7)."""

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
    """Return the name of an error code, or its number in hexadecimal if it is unknown (RFC 9113 §7 permits any code).

    >>> code_name(8), code_name(255)
    ('CANCEL', '0xff')
    """
    try:
        return ErrorCode(code).name
    except ValueError:
        return f"0x{code:x}"


class ConnectionFault(Exception):
    """A connection error: the connection is closed with a GOAWAY (RFC 9113 §5.4.1).

    `code` and `detail` are sent in the GOAWAY. `cause` is logged as the cause of the transactions that it ends.
    """

    def __init__(self, code: int, detail: str, cause: str = "protocol_error") -> None:
        super().__init__(f"{code_name(code)}: {detail}")
        self.code = code
        self.detail = detail
        self.cause = cause


class StreamFault(Exception):
    """A stream error: one stream is reset with a RST_STREAM (RFC 9113 §5.4.2).

    `code` is sent in the RST_STREAM, `detail` is only logged. `cause` is logged as the cause of the stream's transaction.
    """

    def __init__(self, code: int, detail: str, cause: str = "malformed_request") -> None:
        super().__init__(f"{code_name(code)}: {detail}")
        self.code = code
        self.detail = detail
        self.cause = cause
