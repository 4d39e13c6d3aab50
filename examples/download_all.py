"""Download over a thousand files at once, in plain blocking code.

    python examples/download_all.py                      the standard library, from a server of its own
    python examples/download_all.py --latency 50         from a server that takes 50 ms to answer
    python examples/download_all.py --latency 50 --fail  what happens when one download fails
    python examples/download_all.py --url-file urls.txt  your own URLs, one per line

The first three functions are the whole program. The rest starts a server, checks each file byte for byte against the disk,
and measures how long the same downloads take in a loop, one after another.
"""

import argparse
import contextlib
import math
import os
import resource
import subprocess
import sys
import sysconfig
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, TypeAlias
from urllib.parse import quote, urlsplit

from plait import Mutex, ThreadGroup

try:
    from tqdm import tqdm
except ImportError:
    sys.exit("this example shows its progress with tqdm: pip install tqdm")

Bar: TypeAlias = "tqdm[NoReturn]"
Fetch: TypeAlias = Callable[[str], bytes]


# --- the program ---


def fetch(url: str) -> bytes:
    with urllib.request.urlopen(url) as response:
        body: bytes = response.read()
    return body


def store(results: Mutex[dict[str, bytes]], url: str, bar: Bar, fetch: Fetch) -> None:
    body = fetch(url)
    with results.lock() as pages:  # the only way to the dictionary, so it cannot be forgotten
        pages[url] = body
        bar.update()


def download_all(urls: Sequence[str], limit: int, bar: Bar, fetch: Fetch = fetch) -> dict[str, bytes]:
    results = Mutex[dict[str, bytes]]({})
    with ThreadGroup(max_concurrency=limit) as group:  # nothing spawned here outlives this block
        for url in urls:
            group.spawn(store, results, url, bar, fetch)  # waits while `limit` downloads are running
    return results.into_inner()


# --- the same, one after another ---


def download_in_loop(urls: Sequence[str], bar: Bar) -> dict[str, bytes]:
    pages = {}
    for url in urls:
        pages[url] = fetch(url)
        bar.update()
    return pages


# --- what is downloaded ---

HOST = "127.0.0.1"
ENOUGH = 1000


def standard_library() -> tuple[Path, list[Path]]:
    """The interpreter's standard library and its files."""
    root = Path(sysconfig.get_path("stdlib"))
    files: list[Path] = []
    # Some distributions leave much of it out; then compiled and installed modules make up for it.
    for skipped in ({"__pycache__", "site-packages"}, {"site-packages"}, set[str]()):
        files = sorted(
            Path(directory, name)
            for directory, subdirectories, names in os.walk(root)
            if not skipped.intersection(Path(directory).relative_to(root).parts)
            for name in names
            if os.access(Path(directory, name), os.R_OK) and Path(directory, name).is_file()
        )
        if len(files) > ENOUGH:
            break
    return root, files


@contextlib.contextmanager
def file_server(root: Path, latency: float) -> Iterator[str]:
    """Runs file_server.py in a process of its own for the length of a block; the block gets the server's address."""
    program = Path(__file__).with_name("file_server.py")
    command = [sys.executable, str(program), str(root), "--latency", str(latency)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            port = server.stdout.readline().strip()
            if not port:
                sys.exit(f"the file server did not start: {program}")
            yield f"http://{HOST}:{port}/"
        finally:
            server.terminate()


def read_urls(path: str) -> list[str]:
    """The URLs of a file, without its empty lines, comments and repetitions."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        sys.exit(f"cannot read the URLs of {path}: {error}")
    urls: dict[str, None] = {}
    for number, line in enumerate(lines, start=1):
        url = line.strip()
        if not url or url.startswith("#"):
            continue
        try:
            parts = urlsplit(url)
            is_url = parts.scheme in {"http", "https"} and bool(parts.hostname)
        except ValueError:
            is_url = False
        if not is_url or any(character.isspace() for character in url):
            sys.exit(f"{path}, line {number}: expected an http or https URL, got {url!r}")
        urls[url] = None
    if not urls:
        sys.exit(f"{path} holds no URLs: expected one per line")
    return list(urls)


# --- measuring and telling ---


def fetch_named(url: str) -> bytes:
    """As `fetch`, but an exception says which URL it is about."""
    try:
        return fetch(url)
    except Exception as error:
        error.add_note(f"while downloading {url}")
        raise


LOOP_SECONDS = 6.0  # about how long the loop may take where nobody asked for all of it


def progress(what: str, total: int) -> Bar:
    return tqdm(total=total, desc=f"{what:<6}", unit=" files", leave=True, dynamic_ncols=True)


def compare(urls: Sequence[str], expected: Mapping[str, Path], limit: int, sample_size: int) -> None:
    """Downloads `urls` concurrently, and `sample_size` of them in a loop; checks what came, and prints both times."""
    with progress("plait", len(urls)) as bar:
        start = time.perf_counter()
        pages = download_all(urls, limit, bar, fetch_named)
        concurrent = time.perf_counter() - start

    step = math.ceil(len(urls) / sample_size)
    sample = urls[::step]
    with progress("loop", len(sample)) as bar:
        start = time.perf_counter()
        looped = download_in_loop(sample, bar)
        sequential = time.perf_counter() - start

    size = sum(map(len, pages.values())) / 1e6
    print()
    print(f"downloaded   {len(pages):,} files, {size:,.1f} MB")
    if expected:
        for url, path in expected.items():
            on_disk = path.read_bytes()
            if pages.get(url) != on_disk or looped.get(url, on_disk) != on_disk:
                sys.exit(f"{url} differs from {path}")
        print(f"checked      {len(expected):,} files byte for byte against the disk: all equal")
    print(f"plait        {concurrent:8.2f} s, at most {limit} at a time")
    if len(sample) == len(urls):
        print(f"loop         {sequential:8.2f} s, one after another")
    else:
        measured = sequential
        sequential *= len(urls) / len(sample)
        print(
            f"loop         {sequential:8.2f} s, one after another: estimated from a sample of {len(sample)} files, "
            f"evenly spread, in {measured:.2f} s (--full-loop measures them all)"
        )
    print(f"ratio        {sequential / concurrent:8.1f}")


@dataclass
class Tally:
    """What `show_failure` counts."""

    started: int = 0
    failed: int = 0
    first_failure: float = math.inf


def show_failure(urls: Sequence[str], limit: int) -> None:
    """Downloads `urls`, one of which fails, and prints what became of the others."""
    tally = Mutex(Tally())

    def fetch_and_count(url: str) -> bytes:
        with tally.lock() as counts:
            counts.started += 1
        try:
            return fetch_named(url)
        except OSError:  # a cancelled download raises plait.Cancelled, which is no OSError
            with tally.lock() as counts:
                counts.failed += 1
                counts.first_failure = min(counts.first_failure, time.perf_counter())
            raise

    with progress("plait", len(urls)) as bar:
        try:
            download_all(urls, limit, bar, fetch_and_count)
        except ExceptionGroup as error:
            failure, raised = error, time.perf_counter()
        else:
            sys.exit("one download failed, yet the block did not raise: this is a bug")
        finished = bar.n

    counts = tally.into_inner()
    print()
    print(f"the block raised {(raised - counts.first_failure) * 1000:.1f} ms after the first failure:")
    print_failure(failure)
    print()
    print(f"finished before      {finished:6,}")
    print(f"failed               {counts.failed:6,}")
    print(f"cancelled, running   {counts.started - counts.failed - finished:6,}")
    print(f"never started        {len(urls) - counts.started:6,}")


def print_failure(failure: BaseException, indent: str = "    ") -> None:
    """Prints an exception in a line, with its notes and, if it is a group, its members."""
    print(f"{indent}{type(failure).__name__}: {failure}")
    for note in getattr(failure, "__notes__", ()):
        print(f"{indent}    {note}")
    if isinstance(failure, BaseExceptionGroup):
        for member in failure.exceptions:
            print_failure(member, indent + "    ")


# --- the command line ---


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"expected a whole number above zero, got {text!r}")
    return int(text)


def milliseconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number of milliseconds, zero or more, got {text!r}")
    return value


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def parse_arguments() -> argparse.Namespace:
    parser = Parser(description="Download over a thousand files at once, in plain blocking code.")
    parser.add_argument(
        "--latency", type=milliseconds, metavar="MS", help="the server waits this long before each file"
    )
    parser.add_argument("--url-file", metavar="FILE", help="download the URLs in this file, one per line")
    parser.add_argument("--limit", type=positive, default=100, metavar="N", help="at most N at a time (default: 100)")
    parser.add_argument(
        "--fail", action="store_true", help="let one download fail, and show what becomes of the others"
    )
    parser.add_argument("--full-loop", action="store_true", help="measure the loop on all files, however long it takes")
    options = parser.parse_args()
    if options.url_file is not None and (options.latency is not None or options.fail):
        parser.error("--latency and --fail are for the example's own server: not together with --url-file")
    return options


def allow_open_files(count: int) -> None:
    """Raises this process's limit of open files if need be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= count:
        return
    if hard != resource.RLIM_INFINITY and hard < count:
        sys.exit(f"so many downloads at a time need {count} open files, and this system allows {hard}: see ulimit -n")
    resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))


def main() -> None:
    options = parse_arguments()
    allow_open_files(2 * options.limit + 100)

    if options.url_file is not None:
        urls = read_urls(options.url_file)
        print(f"{len(urls):,} URLs of {options.url_file}")
        if any(url.startswith("https:") for url in urls):
            print("some are https: plait 0.1 waits for TLS without switching, so these take turns")
        compare(urls, {}, options.limit, len(urls) if options.full_loop else min(len(urls), 20))
        return

    os.environ["no_proxy"] = HOST  # a proxy that the environment names knows nothing of our server
    root, files = standard_library()
    latency = options.latency or 0.0
    with file_server(root, latency) as address:
        print(f"{len(files):,} files of {root}, from http.server at {address}, each after {latency:g} ms")
        expected = {address + quote(path.relative_to(root).as_posix()): path for path in files}
        urls = list(expected)
        if options.fail:
            urls.insert(min(len(urls) // 2, 2 * options.limit), f"{address}there-is-no-such-file")
            show_failure(urls, options.limit)
        else:
            affordable = len(urls) if options.full_loop or not latency else math.ceil(LOOP_SECONDS * 1000 / latency)
            compare(urls, expected, options.limit, min(len(urls), affordable))


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        print("\ninterrupted: the downloads have ended, and so has the server", file=sys.stderr)
        sys.exit(130)
    except ExceptionGroup as failure:
        print("\nthe block raised:")
        print_failure(failure)
        sys.exit(1)
