"""Log records, one per transaction, and the destinations for them."""

from trio_tsconnect.log._combined import combined as combined
from trio_tsconnect.log._jsonlines import JsonLinesLog as JsonLinesLog
from trio_tsconnect.log._jsonlines import StderrLog as StderrLog
from trio_tsconnect.log._log import Log as Log
from trio_tsconnect.log._log import MemoryLog as MemoryLog
from trio_tsconnect.log._otel import OtelLog as OtelLog
from trio_tsconnect.log._record import Ended as Ended
from trio_tsconnect.log._record import LogRecord as LogRecord
