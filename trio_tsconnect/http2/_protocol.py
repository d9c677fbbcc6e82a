"""h2, configured for a server that validates fields itself.

Invariant: only this module imports h2. h2 keeps the stream states, both directions of flow control, SETTINGS and HPACK. It validates no
fields: that would be a second and a third pass over each of them, and h2 would close the connection for an error of one stream.

So h2 gets a decoder that keeps the decoded fields for `_fields`, and that returns a valid stand-in head to h2.
"""

from __future__ import annotations

from trio_tsconnect._util import lacks

try:
    import h2.config
    import h2.connection
    import h2.events
    import h2.exceptions
    import h2.settings
except ModuleNotFoundError as missing:
    raise lacks("h2", "trio_tsconnect.http2", missing) from None

from trio_tsconnect.config import Http2Limits
from trio_tsconnect.http2._errors import ConnectionFault, ErrorCode
from trio_tsconnect.http2._frames import MAX_FRAME, PREFACE, settings_frame
from trio_tsconnect.http2._hpack import FieldDecoder, Fields, SmallEncoder

H2Connection = h2.connection.H2Connection
Event = h2.events.Event
RequestReceived = h2.events.RequestReceived
TrailersReceived = h2.events.TrailersReceived
DataReceived = h2.events.DataReceived
StreamEnded = h2.events.StreamEnded
StreamReset = h2.events.StreamReset
WindowUpdated = h2.events.WindowUpdated
RemoteSettingsChanged = h2.events.RemoteSettingsChanged
PingAckReceived = h2.events.PingAckReceived
ProtocolError = h2.exceptions.ProtocolError

NO_RFC7540_PRIORITIES = 0x9
"""Identifier of SETTINGS_NO_RFC7540_PRIORITIES (RFC 9218 §2.1), which h2 does not know."""
INITIAL_WINDOW = 65535
"""Bytes. The initial flow-control window of the connection, and of streams until SETTINGS change it (RFC 9113 §6.9.2)."""

_CODES = h2.settings.SettingCodes
_KNOWN = frozenset({*_CODES, NO_RFC7540_PRIORITIES})
_GOAWAY_SIZE = 17
"""Bytes of a GOAWAY frame without debug data."""
_LOOK_EVERY = 64
"""h2 counts its streams, and forgets the closed ones, once for so many new streams."""


class _Configuration(h2.config.H2Configuration):
    """h2's configuration with plain attributes in place of its descriptors, because h2 reads them several times per frame."""

    client_side = False
    validate_inbound_headers = False
    normalize_inbound_headers = False
    validate_outbound_headers = False
    normalize_outbound_headers = False
    split_outbound_cookies = False


class _Connection(H2Connection):
    """h2's connection, without the scan of all streams for each new stream."""

    MAX_CLOSED_STREAMS = 1000  # closed streams are remembered so that a late frame is only a stream error; h2's default is 65536

    _asked = 0

    @property
    def open_inbound_streams(self) -> int:
        """0, except for every 64th read, which returns the number of open streams.

        h2 reads this for each new stream and scans all streams to count them. `Connection` enforces the limit itself, so the number is not
        needed. But the scan is also what removes closed streams from h2, so it must run from time to time.
        """
        self._asked += 1
        return 0 if self._asked % _LOOK_EVERY else super().open_inbound_streams

    def forget_closed_streams(self) -> None:
        """Remove closed streams from h2. Call this before an operation that h2 applies to all streams."""
        super().open_inbound_streams  # noqa: B018 - reading the property removes closed streams


class Machine:
    """The h2 connection of one client, with our HPACK decoder and encoder."""

    def __init__(self, limits: Http2Limits) -> None:
        self.h2 = h2_connection = _Connection(
            _Configuration(
                client_side=False,
                header_encoding=False,
                validate_inbound_headers=False,
                normalize_inbound_headers=False,
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
            )
        )
        self._decoder = FieldDecoder(max_header_list_size=limits.max_header_list)
        h2_connection.decoder = self._decoder
        h2_connection.encoder = SmallEncoder()
        self.last_words = b""
        """Frames that h2 had queued before the error that closed the connection, without h2's own GOAWAY."""

    def settings(self, values: list[tuple[int, int]]) -> list[Event]:
        """Pass validated settings from a client to h2 and return h2's events.

        Only the last value of each known setting is passed on: h2 would store every unknown one.
        """
        last = {number: value for number, value in values if number in _KNOWN}
        sizes = [value for number, value in values if number == _CODES.HEADER_TABLE_SIZE]
        if sizes:
            # RFC 7541 §4.2: the smallest size must be signalled too, and h2 only sees the last one
            self.h2.encoder.header_table_size = min(sizes)
        self.h2.forget_closed_streams()
        return self.receive(settings_frame(last))

    def begin(self, limits: Http2Limits, max_head: int) -> None:
        """Queue our SETTINGS and the WINDOW_UPDATE of the connection. h2 applies the settings once the client has acknowledged them.

        `max_head`: bytes of a request head that the engine accepts.
        """
        announced = {
            _CODES.MAX_CONCURRENT_STREAMS: limits.max_concurrent_streams,
            _CODES.INITIAL_WINDOW_SIZE: 128 << limits.buffer_index,
            _CODES.MAX_HEADER_LIST_SIZE: min(limits.max_header_list, max_head),  # the engine rejects larger heads
            _CODES.ENABLE_CONNECT_PROTOCOL: 1,  # RFC 8441 §3
            NO_RFC7540_PRIORITIES: 1,
        }
        self.h2.update_settings(announced)
        # Past this limit h2 would close the connection. `Connection.open_stream` counts streams and refuses the one (RFC 9113 §5.1.2).
        del self.h2.local_settings[_CODES.MAX_CONCURRENT_STREAMS]
        if limits.connection_window > INITIAL_WINDOW:
            self.h2.increment_flow_control_window(limits.connection_window - INITIAL_WINDOW)
        self.h2.receive_data(PREFACE)  # h2 expects it; the client's own preface is consumed by `FrameReader`

    def receive(self, frame: bytes) -> list[Event]:
        """Pass one frame, or one HEADERS frame with its CONTINUATION frames, to h2 and return h2's events.

        Raises `ConnectionFault` for a connection error; h2 must not be used for receiving afterwards.
        """
        try:
            return self.h2.receive_data(frame)
        except ProtocolError as error:
            self.last_words = self.h2.data_to_send()[:-_GOAWAY_SIZE]  # drop h2's GOAWAY: ours has debug data
            code = int(error.error_code)
            if code == ErrorCode.PROTOCOL_ERROR and "decoding header block" in str(error):
                code = ErrorCode.COMPRESSION_ERROR  # RFC 9113 §4.3
            cause = "enhance_your_calm" if code == ErrorCode.ENHANCE_YOUR_CALM else "protocol_error"
            raise ConnectionFault(code, str(error), cause) from None

    def reset(self, stream: int, code: int) -> bool:
        """Queue a RST_STREAM. Return False, and queue nothing, if the stream is closed or unknown in h2."""
        try:
            self.h2.reset_stream(stream, code)
        except ProtocolError:
            return False
        return True

    @property
    def fields(self) -> Fields:
        """The fields of the last head that was received."""
        return self._decoder.fields

    @property
    def frame_size(self) -> int:
        """Maximum payload bytes of DATA we send: the client's SETTINGS_MAX_FRAME_SIZE, but at most 16384, so urgent frames wait less."""
        return min(self.h2.max_outbound_frame_size, MAX_FRAME)
