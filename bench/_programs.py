"""Programs in other languages: compiled once in a run, or said why they cannot be had here.

The process that runs the benchmark compiles them into a directory that is gone when it ends, and names the directory in
the environment, so that its children find what is there.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
#: The variable of the environment that names the directory of what was compiled.
DIRECTORY = "PLAIT_BENCH_PROGRAMS"
#: The first Java whose virtual threads are no preview.
OLDEST_JAVA = 21


class MissingError(Exception):
    """Something that a program needs cannot be had here; the message says what, for the table."""


@functools.cache
def command(source: str) -> tuple[str, ...]:
    """Return the command that runs the program in that file of ``bench/``. Raises MissingError if there is no compiler."""
    path = HERE / source
    language = {".c": _c_command, ".go": _go_command, ".java": _java_command}[path.suffix]
    return language(path)


@functools.cache
def extension(source: str) -> Path:
    """Return the extension module that is in that file of ``bench/``, compiled. It may include greenlet's header.

    Raises MissingError if there is no compiler, or if a header is missing.
    """
    compiler = shutil.which("gcc") or shutil.which("cc") or shutil.which("clang")
    if compiler is None:
        raise MissingError("no C compiler")
    greenlet = importlib.util.find_spec("greenlet")
    packages = (greenlet.submodule_search_locations or ()) if greenlet is not None else ()
    include = [f"-I{place}" for place in (sysconfig.get_path("include"), *(Path(each).parent for each in packages))]
    return _compiled(HERE / source, compiler, "-O2", "-shared", "-fPIC", *include, "-o")


def become(source: str, *arguments: str) -> None:
    """Turn this process into that program. It keeps the standard streams, the process id and the alarm."""
    words = [*command(source), *arguments]
    sys.stdout.flush()
    os.execv(words[0], words)


def _c_command(source: Path) -> tuple[str, ...]:
    compiler = next(filter(None, map(shutil.which, ("gcc", "cc", "clang"))), None)
    if compiler is None:
        raise MissingError("no C compiler")
    return (str(_compiled(source, compiler, "-O2", "-o")),)


def _go_command(source: Path) -> tuple[str, ...]:
    compiler = shutil.which("go")
    if compiler is None:
        raise MissingError("no Go")
    return (str(_compiled(source, compiler, "build", "-o")),)


def _java_command(source: Path) -> tuple[str, ...]:
    java, compiler = shutil.which("java"), shutil.which("javac")
    if java is None or compiler is None:
        raise MissingError("no Java" if java is None else "no Java compiler")
    said = subprocess.run([compiler, "-version"], capture_output=True, text=True, check=False)
    version = re.search(r"\d+", said.stdout + said.stderr)
    if version is None or int(version[0]) < OLDEST_JAVA:
        raise MissingError(f"Java {version[0] if version else 'of no version'}, older than {OLDEST_JAVA}")
    return (java, "-cp", str(_compiled(source, compiler, "-d")), source.stem)


def _compiled(source: Path, *compile_to: str) -> Path:
    """Return what the compiler makes of a source: a program, or Java's directory of classes."""
    target = _directory() / source.name.replace(".", "-")
    if not target.exists():
        done = subprocess.run([*compile_to, str(target), str(source)], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            sys.stderr.write(done.stdout + done.stderr)
            raise MissingError(f"{source.name} does not compile here")
    return target


def _directory() -> Path:
    if DIRECTORY not in os.environ:
        os.environ[DIRECTORY] = _made_directory().name
    return Path(os.environ[DIRECTORY])


@functools.cache
def _made_directory() -> tempfile.TemporaryDirectory[str]:
    """Return a directory that is removed when this process ends."""
    return tempfile.TemporaryDirectory(prefix="plait-bench-")
