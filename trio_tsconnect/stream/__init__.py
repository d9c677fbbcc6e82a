"""Bytes: virtual connections, and HTTP/1.1 over any trio stream."""

from ._client_info import ClientInfo as ClientInfo
from ._client_info import TLSInfo as TLSInfo
from ._client_info import describe_client as describe_client
from ._heads import HeadLimits as HeadLimits
from ._heads import request_to_bytes as request_to_bytes
from ._http1 import DRAIN_ABOVE as DRAIN_ABOVE
from ._http1 import HTTP1Client as HTTP1Client
from ._http1 import HTTP1Server as HTTP1Server
from ._http1 import IncompleteMessage as IncompleteMessage
from ._machine import Parser as Parser
from ._machine import load_parser as load_parser
from ._pipe import Pipe as Pipe
from ._pipe import PipeStatistics as PipeStatistics
from ._sockets import close_gently as close_gently
from ._sockets import close_now as close_now
from ._sockets import has_input as has_input
from ._sockets import reset as reset
from ._sockets import watch_peer as watch_peer
from ._virtual import Identity as Identity
from ._virtual import VirtualConnection as VirtualConnection
from ._virtual import VirtualConnectionStatistics as VirtualConnectionStatistics
from ._virtual import check_water_mark as check_water_mark
from ._virtual import make_pair as make_pair
from ._virtual import open_virtual_connection_pair as open_virtual_connection_pair
from ._virtual import window_of as window_of
