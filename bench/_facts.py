"""The facts that a reader needs to judge a figure: the machine, the interpreter, the versions."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import subprocess
import tomllib
from pathlib import Path

from bench._process import ROOT, child_environment, has_gil

#: What a figure depends on in this source tree: plait, how it is built, and what measures it.
MEASURED = ("src", "setup.py", "bench")
PACKAGES = ("plait", "greenlet", "uvloop", "gevent", "eventlet", "trio", "urllib3", "aiofiles")


def is_installed(package: str | None) -> bool:
    """Return whether a contender's package can be imported; None stands for the standard library."""
    return package is None or importlib.util.find_spec(package) is not None


def machine_facts() -> dict[str, str]:
    """Return the facts for the header, in the order in which they are shown."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    load = " ".join(f"{value:.2f}" for value in os.getloadavg())
    build = "GIL" if has_gil() else "free-threaded"
    versions = {package: _version(package) for package in PACKAGES}
    return {
        "cpu": _cpu_model(),
        "cores": f"{cores} (load average {load} at the start)",
        "memory": f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.1f} GiB, caches {_caches()}",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": f"{platform.python_version()} ({build}, {platform.python_compiler()})",
        "packages": ", ".join(f"{package} {version}" for package, version in versions.items()),
        "PLAIT_CARRIERS": child_environment({}).get("PLAIT_CARRIERS", "not set: plait's own choice"),
    }


def _version(package: str) -> str:
    if package == "plait" and _is_here():
        return _version_here()
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "of unknown version" if is_installed(package) else "not installed"


def _is_here() -> bool:
    """Return whether the plait that is measured was built in place, in this source tree."""
    found = importlib.util.find_spec("plait")
    return found is not None and found.origin is not None and Path(found.origin).resolve().is_relative_to(ROOT / "src")


def _version_here() -> str:
    """Return what the source tree says: the version, and the commit, with a + if what is measured differs from it."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        version = str(tomllib.load(file)["project"]["version"])
    commit = _git("rev-parse", "--short", "HEAD")
    if not commit:
        return version
    return f"{version} ({commit}{'+' if _git('status', '--porcelain', '--', *MEASURED) else ''})"


def _git(*arguments: str) -> str:
    """Return what git says of this source tree; nothing if that is no repository of its own, or git is not there."""
    if not (ROOT / ".git").exists():
        return ""
    try:
        said = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return said.stdout.strip() if said.returncode == 0 else ""


def _caches() -> str:
    """The sizes of one core's caches, from the nearest on; those of other cores may be the same ones."""
    sizes = []
    for place in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            level, kind, size = (
                (place / name).read_text(encoding="ascii").strip() for name in ("level", "type", "size")
            )
        except OSError:
            continue
        sizes.append(f"L{level}{'' if kind == 'Unified' else kind[0].lower()} {size}")
    return ", ".join(sizes) or "not told"


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()
