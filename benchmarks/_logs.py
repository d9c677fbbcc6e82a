"""How long the statistics of a large log take: `python -m benchmarks._logs --records 10000000`.

Writes a log of synthetic records that look like those of a busy proxy (HTTP/2 streams, their children, tags, causes, slow requests), counts
it with DuckDB, and measures time and peak memory in a process of its own. The path without DuckDB is measured on the first records.

Invariant: a seed gives the same log, and no line of it differs from what `LogRecord.to_json` could have written.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from trio_tsconnect.log import Ended, LogRecord
from trio_tsconnect.logstats import read_records, summarize

_BATCH = 2000
_START = 1_800_000_000.0
_RATE = 1000.0
_SAMPLE = 200_000
_PLACES = ("time", "session", "client_connection", "stream", "transaction", "parent", "root")


def _template(record: LogRecord) -> str:
    """Return a record as text with places for what differs in every record: `_PLACES`, and two times."""
    fields = record.as_dict()
    text = json.dumps(fields | {name: f"<{name}>" for name in _PLACES}, separators=(",", ":")).replace("%", "%%")
    for name in _PLACES:
        text = text.replace(f'"<{name}>"', '"%(time)s"' if name == "time" else f"%({name})s")
    if record.tag == "h2":
        text = text.replace('"id":0', '"id":%(client_connection)s')
    text = text.replace('"read_response":0.25', '"read_response":%(sent).6f').replace('"send_response":0.5', '"send_response":%(there).6f')
    return text.replace('"release":0.75', '"release":%(end).6f') + "\n"


def _templates(generator: random.Random) -> tuple[list[str], list[str]]:
    """Return some hundred root records and some children."""
    early = {"read_request": 0.0, "remap": 0.000041, "acquire_origin": 0.000085}
    late = early | {"send_request": 0.000212, "read_response": 0.25, "send_response": 0.5, "release": 0.75}
    ends = [Ended("proxy", "complete", "release")] * 60 + [
        Ended("origin", "origin_response_timeout", "read_response"),
        Ended("client", "client_gone", "send_response"),
    ]
    roots = []
    for number in range(400):
        ended = generator.choice(ends)
        status = {"complete": generator.choice([200] * 12 + [304, 404, 503]), "client_gone": None}.get(ended.why, 504)
        kind = generator.choice(["h2"] * 6 + ["http/1.1"] * 3 + ["job"])
        place = f"app{generator.randrange(12)}.internal.example"
        record = LogRecord(
            client_address=f"192.0.2.{generator.randrange(1, 255)}",
            client_protocol="h2" if kind == "h2" else "http/1.1",
            tag=None if kind == "http/1.1" else kind,
            internal=kind == "job",
            method=generator.choice(["GET", "GET", "GET", "POST"]),
            url=f"https://shop.example/catalogue/{number}?page={generator.randrange(100)}",
            origin_url=f"http://{place}/catalogue/{number}?page={generator.randrange(100)}",
            remap_rule=f"//shop.example/{'abcdef'[number % 6]}/",
            status=status,
            origin_status=status,
            request_bytes=generator.randrange(2000),
            response_bytes=generator.randrange(100_000),
            origin_connection=1000 + generator.randrange(200),
            origin_reused=generator.random() < 0.9,
            attempts=1,
            milestones=late,
            ended=ended,
            process=4711,
            request_head_bytes=412,
            response_head_bytes=187,
            host="shop.example",
            user_agent="Mozilla/5.0 (X11; Linux x86_64)",
            origin_address=f"{place}:80",
        )
        roots.append(_template(record))
    children = [
        LogRecord(
            depth=1, client_protocol="h2", tag=tag, internal=True, method="GET", url=f"http://{tag}.example/", origin_url=f"http://{tag}.example/",
            status=204, origin_status=204, origin_connection=900, origin_reused=True, attempts=1, milestones=late,
            ended=Ended("proxy", "complete", "release"), process=4711, opened_by=f"{plugin}.{hook}",
        )
        for tag, plugin, hook in [("auth_request", "AuthRequest", "read_request"), ("aggregate", "Aggregate", "read_request")]
    ]  # fmt: skip
    return roots, [_template(record) for record in children]


def lines(records: int, *, seed: int = 1) -> Iterator[str]:
    """Yield the lines of a log of so many records: connections of 1 to 40 streams, a child for every fourth, written before its parent."""
    generator = random.Random(seed)
    roots, children = _templates(generator)
    numbers = itertools.count(1)
    written = 0
    while written < records:
        connection, streams = next(numbers), int(min(40.0, generator.expovariate(0.1))) + 1
        for stream in range(1, 2 * streams, 2):
            moment = _START + written / _RATE
            number = next(numbers)
            stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(moment)) + f".{int(moment % 1 * 1e6):06d}Z"
            sent = 0.0003
            there = sent + generator.lognormvariate(-4.0, 1.0)
            fields = {"time": stamp, "session": number, "client_connection": connection, "stream": stream}
            fields |= {"transaction": number, "parent": "null", "root": number, "sent": sent, "there": there, "end": there * 1.1}
            if number % 4 == 0:
                child = fields | {"transaction": next(numbers), "parent": number, "there": there / 3, "end": there / 2.9}
                yield generator.choice(children) % child
                written += 1
            # One template for each connection and a few streams of it: what a client asks has a pattern.
            yield roots[(connection * 7 + stream % 8) % len(roots)] % fields
            written += 1


def write(file: TextIO, records: int, *, seed: int = 1) -> None:
    """Write such a log."""
    source = itertools.islice(lines(records, seed=seed), records)
    while batch := list(itertools.islice(source, _BATCH)):
        file.writelines(batch)


_COUNT = "import sys; from trio_tsconnect._command import main; sys.exit(main(['logstats', sys.argv[1]]))"


def measure(path: Path) -> tuple[float, float, float]:
    """Count the log in a process of its own. Return the seconds, those of all processors together, and the peak of its memory in MiB."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", _COUNT, str(path)], check=True, stdout=subprocess.DEVNULL)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.perf_counter() - start, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks._logs", description="Statistics of a large log: time and memory.")
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--write", metavar="FILE", help="write the log there and measure nothing")
    options = parser.parse_args()
    if options.write:
        with open(options.write, "w") as file:
            write(file, options.records, seed=options.seed)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "log.jsonl")
        start = time.perf_counter()
        with path.open("w") as file:
            write(file, options.records, seed=options.seed)
        print(
            f"{options.records} records, {path.stat().st_size / 2**20:.0f} MiB, written in {time.perf_counter() - start:.1f} s", flush=True
        )
        seconds, work, memory = measure(path)
        rate = f"{options.records / seconds:,.0f} records/s"
        print(f"DuckDB: {seconds:.1f} s ({work:.1f} s of processor time), {rate}, at most {memory:.0f} MiB of memory", flush=True)
        start = time.perf_counter()
        count = summarize(itertools.islice(read_records(path), _SAMPLE)).transactions
        print(f"streaming: {count / (time.perf_counter() - start):,.0f} records/s, measured on {count} records")


if __name__ == "__main__":
    main()
