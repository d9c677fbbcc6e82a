"""Post-processing of logs: counts, trees of transactions, joins with other logs, and a report."""

from trio_tsconnect.logstats._join import Joined as Joined
from trio_tsconnect.logstats._join import join as join
from trio_tsconnect.logstats._read import Records as Records
from trio_tsconnect.logstats._read import read_records as read_records
from trio_tsconnect.logstats._report import to_html as to_html
from trio_tsconnect.logstats._report import write_report as write_report
from trio_tsconnect.logstats._summary import Spread as Spread
from trio_tsconnect.logstats._summary import Summary as Summary
from trio_tsconnect.logstats._summary import summarize as summarize
from trio_tsconnect.logstats._tree import Node as Node
from trio_tsconnect.logstats._tree import tree as tree
