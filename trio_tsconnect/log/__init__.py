"""Log records, one per transaction, and the destinations for them."""

from trio_tsconnect.log._codes import CODES as CODES
from trio_tsconnect.log._codes import Code as Code
from trio_tsconnect.log._combined import combined as combined
from trio_tsconnect.log._fields import FIELDS as FIELDS
from trio_tsconnect.log._fields import Field as Field
from trio_tsconnect.log._filter import FilterError as FilterError
from trio_tsconnect.log._filter import parse_filter as parse_filter
from trio_tsconnect.log._format import FORMATS as FORMATS
from trio_tsconnect.log._format import REDACTED_FIELDS as REDACTED_FIELDS
from trio_tsconnect.log._format import Format as Format
from trio_tsconnect.log._format import make_format as make_format
from trio_tsconnect.log._jsonlines import JsonLinesLog as JsonLinesLog
from trio_tsconnect.log._jsonlines import StderrLog as StderrLog
from trio_tsconnect.log._log import Log as Log
from trio_tsconnect.log._log import MemoryLog as MemoryLog
from trio_tsconnect.log._open import check_destination as check_destination
from trio_tsconnect.log._open import is_file as is_file
from trio_tsconnect.log._open import open_line_log as open_line_log
from trio_tsconnect.log._record import Ended as Ended
from trio_tsconnect.log._record import LogRecord as LogRecord
from trio_tsconnect.log._rotate import Rotation as Rotation
from trio_tsconnect.log._select import selection as selection
from trio_tsconnect.log._several import SeveralLogs as SeveralLogs
from trio_tsconnect.log._sink import Destination as Destination
from trio_tsconnect.log._template import FormatError as FormatError
from trio_tsconnect.log._writer import LineLog as LineLog
