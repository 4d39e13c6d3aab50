"""CPython's own tests, with plait and without: the judge of what `plait.patch` promises. See docs/cpython-tests.md.

Each module is run in fresh processes of the interpreter that runs this:

plain    without plait: what the tests give on this machine.
neutral  with plait installed and virtual threads parked, the tests on the main thread as ever. Each test has to give what
         it gives plain.
inside   each test on a virtual thread. Each has to give what it gives plain, except for those that expectations.txt
         excludes, with a reason for each; one that is excluded and passes is said aloud.
elsewhere  only on demand: without plait, each test on an ordinary thread. What fails there is about the main thread.

What differs is repeated by itself, both ways: a test that gives the same result now and then is called unsteady and listed,
but is no failure. The status is 0 if nothing else differs.
"""

from __future__ import annotations

import argparse
import os
import platform
import signal
import sys
import sysconfig
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from xml.etree import ElementTree as ET

import expectations
import runner
from runner import PASSED, Results

# What touches a leaf: the shorter ones first.
MODULES = (
    "test_thread", "test_threading_local", "test_select", "test_poll", "test_epoll", "test_selectors", "test_queue", "test_time",
    "test_threading", "test_threadsignals", "test_socketserver", "test_httplib", "test_httpservers", "test_urllib",
    "test_urllib2", "test_urllib2_localnet", "test_smtplib", "test_ftplib", "test_imaplib", "test_poplib", "test_xmlrpc",
    "test_logging", "test_io", "test_fileio", "test_os", "test_pty", "test_fcntl", "test_signal", "test_subprocess", "test_socket",
    "test_ssl", "test_asyncio", "test_concurrent_futures", "test_multiprocessing_fork", "test_multiprocessing_forkserver",
    "test_multiprocessing_spawn", "test_multiprocessing_main_handling",
)  # fmt: skip
QUICK = ("test_thread", "test_threading_local", "test_select", "test_poll", "test_queue")
MODES = ("neutral", "inside")
_REPETITIONS = 2
_FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
_VERSION = platform.python_version() + ("t" if _FREE_THREADED else "")
_NOT_COUNTED = ("skip",)  # results of tests that do not run here at all


@dataclass
class Verdict:
    """What one module gave in one mode, compared with plain."""

    same: list[str] = field(default_factory=list)
    different: dict[str, str] = field(default_factory=dict)  # by test: in which way
    unsteady: dict[str, str] = field(default_factory=dict)  # likewise
    excluded: dict[str, str] = field(default_factory=dict)  # by test: the reason
    passing: list[str] = field(default_factory=list)  # excluded, and gives what it gives plain
    unknown: list[str] = field(default_factory=list)  # excluded, and there is no such test

    @property
    def is_good(self) -> bool:
        """Whether nothing differs that is not excluded."""
        return not self.different


class Comparison:
    """The runs of one module, and what they are compared with."""

    def __init__(self, module: str, options: argparse.Namespace) -> None:
        self._module = module
        self._options = options
        self._folder = Path(options.results)
        self._excluded = {
            exclusion.test: exclusion
            for exclusion in expectations.read()
            if exclusion.is_in(module) and exclusion.holds_for(sys.version_info[1], is_free_threaded=_FREE_THREADED)
        }
        self._found: dict[str, Results] = {}  # by mode
        self.plain = self._plain_for_quick() if options.quick else self._results("plain")

    def verdict(self, mode: str) -> Verdict:
        """Run the module in `mode` and compare."""
        found = self._found.get(mode) or self._results(mode)
        verdict = Verdict()
        excluded = self._excluded if mode == "inside" else {}
        differing = []
        for name in sorted(self.plain.outcomes.keys() | found.outcomes.keys() | excluded.keys()):
            before, now = self.plain.outcomes.get(name), found.outcomes.get(name)
            if name in excluded:
                if before is None:
                    verdict.unknown.append(name)
                    continue
                verdict.excluded[name] = excluded[name].reason
                if now == before:
                    verdict.passing.append(name)
            elif before == now:
                verdict.same.append(name)
            else:
                differing.append(name)
        self._repeat(mode, differing, found, verdict)
        return verdict

    def _results(self, mode: str) -> Results:
        """What the module gives; from an earlier run, if that is wanted and there is one."""
        path = self._folder / mode / f"{self._module}.json"
        if path.exists() and mode in self._options.keep:
            return Results.load(path)
        not_run = [e.test for e in self._excluded.values() if e.how == "hangs"] if mode == "inside" else []
        results = self._run(mode, without=[] if self._options.hanging else not_run)
        results.save(path)
        return results

    def _plain_for_quick(self) -> Results:
        """What the module gives plain, found out only for what does not pass neutral."""
        self._found["neutral"] = neutral = self._results("neutral")
        others = [name for name, outcome in neutral.outcomes.items() if outcome != PASSED]
        plain = self._run("plain", only=others) if others else Results()
        plain.outcomes = {name: PASSED for name in neutral.outcomes if name not in others} | plain.outcomes
        return plain

    def _run(self, mode: str, suffix: str = "", only: list[str] | None = None, without: list[str] = ()) -> Results:
        log = self._folder / mode / f"{self._module}{suffix}.log"
        limit = self._options.limit
        return runner.run(sys.executable, mode, self._module, log, limit=limit, only=only, without=without)

    def _repeat(self, mode: str, names: list[str], found: Results, verdict: Verdict) -> None:
        """Find out which of the tests that differ do so each time."""
        seen: dict[str, tuple[set, set]] = {
            name: ({self.plain.outcomes.get(name)}, {found.outcomes.get(name)}) for name in names
        }
        for number in range(_REPETITIONS):
            only = [name for name in names if not seen[name][0] & seen[name][1]]
            if not only:
                break
            for column, which in enumerate(("plain", mode)):
                again = self._run(which, f"-again-{number}", only=only)
                for name in only:
                    seen[name][column].add(again.outcomes.get(name))
        for name, (before, now) in seen.items():
            way = f"plain: {_either(before)}; {mode}: {_either(now)}"
            (verdict.unsteady if before & now else verdict.different)[name] = way


def _either(outcomes: set[str | None]) -> str:
    return " or ".join(sorted(outcome or "nothing" for outcome in outcomes))


# ---- what is printed


def _print_verdict(module: str, mode: str, verdict: Verdict, plain: Results) -> None:
    counted = sum(outcome not in _NOT_COUNTED for outcome in plain.outcomes.values())
    kinds = ("same", "different", "unsteady", "excluded")
    counts = ", ".join(f"{len(found)} {kind}" for kind in kinds if (found := getattr(verdict, kind)))
    print(f"{module:34} {mode:8} {counted:5} run  {counts}", flush=True)
    for name, way in verdict.different.items():
        print(f"    DIFFERENT  {name}: {way}")
    for name, way in verdict.unsteady.items():
        print(f"    unsteady   {name}: {way}")
    for name in verdict.passing:
        print(f"    PASSES     {name}, though it is excluded: {verdict.excluded[name]}")
    for name in verdict.unknown:
        print(f"    NO SUCH    test as {name}, which is excluded")


def _print_sum(verdicts: dict[str, dict[str, Verdict]], plains: dict[str, Results], missing: list[str]) -> None:
    print(f"\nCPython {_VERSION}, PLAIT_CARRIERS={os.environ.get('PLAIT_CARRIERS', 'default')}: {len(plains)} modules")
    ran = sum(outcome not in _NOT_COUNTED for plain in plains.values() for outcome in plain.outcomes.values())
    for mode in (*MODES, "elsewhere"):
        total: dict[str, int] = defaultdict(int)
        for verdict in (of_module[mode] for of_module in verdicts.values() if mode in of_module):
            for kind in ("same", "different", "unsteady", "excluded", "passing", "unknown"):
                total[kind] += len(getattr(verdict, kind))
        if total:
            share = f", {total['excluded'] / max(ran, 1):.2%} of {ran} that run here" if mode == "inside" else ""
            print(f"{mode:8}" + ", ".join(f"{number} {kind}" for kind, number in total.items() if number) + share)
    if missing:
        print(f"SKIPPED, for this interpreter does not have them: {', '.join(missing)}")


def _write_junit(path: Path, verdicts: dict[str, dict[str, Verdict]]) -> None:
    """One case a test that could have differed."""
    suite = ET.Element("testsuite", name="cpython")
    failures = skipped = tests = 0
    for module, of_module in verdicts.items():
        for mode, verdict in of_module.items():
            for name in (*verdict.same, *verdict.unsteady, *verdict.different, *verdict.excluded):
                case = ET.SubElement(suite, "testcase", classname=f"cpython.{mode}.{module}", name=name)
                tests += 1
                if name in verdict.different:
                    failures += 1
                    ET.SubElement(case, "failure", message=verdict.different[name])
                elif name in verdict.excluded:
                    skipped += 1
                    ET.SubElement(case, "skipped", message=verdict.excluded[name])
    for key, number in (("tests", tests), ("failures", failures), ("errors", 0), ("skipped", skipped)):
        suite.set(key, str(number))
    path.parent.mkdir(parents=True, exist_ok=True)
    ET.ElementTree(suite).write(path)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/cpython-tests", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("modules", nargs="*", help="test modules; without any, all that touch a leaf")
    parser.add_argument(
        "--quick", action="store_true", help=f"only {', '.join(QUICK)}, and plain what does not pass neutral"
    )
    parser.add_argument(
        "--mode", action="append", choices=(*MODES, "elsewhere"), help="only this one; neutral and inside if not given"
    )
    parser.add_argument(
        "--limit", type=float, default=90, help="seconds after which a test hangs (default %(default)s)"
    )
    parser.add_argument("--hanging", action="store_true", help="run also what is excluded because it hangs")
    parser.add_argument(
        "--keep",
        action="append",
        default=[],
        choices=("plain", *MODES),
        help="use the results of an earlier run, if there are any",
    )
    parser.add_argument("--results", default=f"build/cpython-tests/{_VERSION}", help="where results and logs go")
    parser.add_argument("--junit-xml", type=Path, help="where to write a report")
    return parser.parse_args()


def main() -> int:
    """Run what is asked for; the status of the process."""
    options = _parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # not without ending what has been started
    options.results = os.path.abspath(options.results)
    modules = options.modules or (QUICK if options.quick else MODULES)
    if find_spec("plait") is None:
        sys.exit(f"plait is not installed in {sys.prefix}: see scripts/cpython-tests --help")
    missing = [module for module in modules if find_spec("test") is None or find_spec(f"test.{module}") is None]
    verdicts: dict[str, dict[str, Verdict]] = {}
    plains = {}
    modes = options.mode or MODES

    def compare(module: str) -> tuple[Results, dict[str, Verdict]]:
        comparison = Comparison(module, options)
        return comparison.plain, {mode: comparison.verdict(mode) for mode in modes}

    present = [module for module in modules if module not in missing]
    with ThreadPoolExecutor(2 if options.quick else 1) as pool:  # the quick ones mostly sleep
        for module, (plain, of_module) in zip(present, pool.map(compare, present), strict=True):
            plains[module], verdicts[module] = plain, of_module
            for mode, verdict in of_module.items():
                _print_verdict(module, mode, verdict, plain)
    _print_sum(verdicts, plains, missing)
    if options.junit_xml:
        _write_junit(options.junit_xml, verdicts)
    return 0 if all(verdict.is_good for of_module in verdicts.values() for verdict in of_module.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
