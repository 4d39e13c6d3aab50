"""The child process: run one contender of one benchmark, and report what it measured as a line of JSON.

    python -m bench._child '{"benchmark": ..., "contender": ..., "params": {...}, "limit": seconds}'

The child ends itself when its time is over, so nothing is left behind even if the parent is killed. It does that with
an alarm and the alarm's default action, which no runtime can be too busy to notice. It may open as many descriptors as
the system lets it.
"""

from __future__ import annotations

import json
import resource
import signal
import sys

from bench._model import Sample, load_benchmark


def report(sample: Sample) -> None:
    """Hand a sample over to the parent."""
    sys.stdout.write(json.dumps(sample) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Do what the first argument says."""
    job = json.loads(sys.argv[1])
    signal.alarm(job["limit"])
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    load_benchmark(job["benchmark"]).contender(job["contender"]).run(job["params"], report)


if __name__ == "__main__":
    main()
