"""What a plugin is given."""

from trio_tsconnect.hooks._connect import ConnectOptions as ConnectOptions
from trio_tsconnect.hooks._errors import ConnectRefused as ConnectRefused
from trio_tsconnect.hooks._errors import InvalidState as InvalidState
from trio_tsconnect.hooks._states import TRANSITIONS as TRANSITIONS
from trio_tsconnect.hooks._states import State as State
