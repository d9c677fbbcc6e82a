"""h2, set up for a server that judges fields itself.

The law: h2 is imported here and nowhere else. It keeps the states of streams, both flow controls, SETTINGS and HPACK; it judges no field, for
that would be a second and a third pass over each, and an error of one stream would end the connection.

So the decoder that h2 is given keeps what it decoded for `_fields`, and hands h2 a head that there is nothing to say about.
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
"""RFC 9218 §2.1."""
INITIAL_WINDOW = 65535
"""RFC 9113 §6.9.2: of the connection, and of streams until SETTINGS say otherwise."""

_CODES = h2.settings.SettingCodes
_KNOWN = frozenset({*_CODES, NO_RFC7540_PRIORITIES})
_GOAWAY_SIZE = 17
_LOOK_EVERY = 64


class _Configuration(h2.config.H2Configuration):
    """Has as attributes what h2's checks on each assignment, and so looks up at each use: a few times for each frame."""

    client_side = False
    validate_inbound_headers = False
    normalize_inbound_headers = False
    validate_outbound_headers = False
    normalize_outbound_headers = False
    split_outbound_cookies = False


class _Connection(H2Connection):
    MAX_CLOSED_STREAMS = 1000  # remembered so that a late frame is a fault of its stream only; h2 would remember 65536

    _asked = 0

    @property
    def open_inbound_streams(self) -> int:
        """None, but for now and then: h2 asks for each new stream, and looks at all others to tell; who counts them here needs no answer.

        While it looks it also forgets those that are closed, so it is let to once in a while.
        """
        self._asked += 1
        return 0 if self._asked % _LOOK_EVERY else super().open_inbound_streams

    def forget_closed_streams(self) -> None:
        """Before anything that is about all streams."""
        super().open_inbound_streams  # noqa: B018 - looking is what does it


class Machine:
    """h2's connection and its decoder."""

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
        """What was to be sent before the fault that ended the connection."""

    def settings(self, values: list[tuple[int, int]]) -> list[Event]:
        """Hand over a SETTINGS frame, its values judged already: the last of each kind, and of kinds that there are (h2 would keep them all)."""
        last = {number: value for number, value in values if number in _KNOWN}
        sizes = [value for number, value in values if number == _CODES.HEADER_TABLE_SIZE]
        if sizes:
            self.h2.encoder.header_table_size = min(sizes)
        self.h2.forget_closed_streams()
        return self.receive(settings_frame(last))

    def begin(self, limits: Http2Limits, max_head: int) -> None:
        """Send our SETTINGS. They are in force for the client once it has acknowledged them, and until then here as well."""
        announced = {
            _CODES.MAX_CONCURRENT_STREAMS: limits.max_concurrent_streams,
            _CODES.INITIAL_WINDOW_SIZE: 128 << limits.buffer_index,
            _CODES.MAX_HEADER_LIST_SIZE: min(limits.max_header_list, max_head),  # what the engine takes, of which nobody knows in HTTP/2
            _CODES.ENABLE_CONNECT_PROTOCOL: 1,  # RFC 8441 §3
            NO_RFC7540_PRIORITIES: 1,
        }
        self.h2.update_settings(announced)
        # h2 would end the connection for one stream too many; who counts streams here refuses that stream alone (RFC 9113 §5.1.2).
        del self.h2.local_settings[_CODES.MAX_CONCURRENT_STREAMS]
        if limits.connection_window > INITIAL_WINDOW:
            self.h2.increment_flow_control_window(limits.connection_window - INITIAL_WINDOW)
        self.h2.receive_data(PREFACE)

    def receive(self, frame: bytes) -> list[Event]:
        """Hand over one frame, or one head with its continuations. `ConnectionFault` when it ends the connection."""
        try:
            return self.h2.receive_data(frame)
        except ProtocolError as error:
            self.last_words = self.h2.data_to_send()[:-_GOAWAY_SIZE]  # h2's own tells less than ours
            code = int(error.error_code)
            if code == ErrorCode.PROTOCOL_ERROR and "decoding header block" in str(error):
                code = ErrorCode.COMPRESSION_ERROR  # RFC 9113 §4.3
            cause = "enhance_your_calm" if code == ErrorCode.ENHANCE_YOUR_CALM else "protocol_error"
            raise ConnectionFault(code, str(error), cause) from None

    def reset(self, stream: int, code: int) -> bool:
        """Reset a stream; False when both sides had ended it already."""
        try:
            self.h2.reset_stream(stream, code)
        except ProtocolError:
            return False
        return True

    @property
    def fields(self) -> Fields:
        """The fields of the head that was received last."""
        return self._decoder.fields

    @property
    def frame_size(self) -> int:
        """Bytes of data that one frame may hold: as many as the client takes, but not so many that nothing urgent can come between."""
        return min(self.h2.max_outbound_frame_size, MAX_FRAME)
