"""Builds plait's extension modules; everything else about the package is in pyproject.toml.

`plait._native._native` is made of one Cython file and of all C files beside it. The hot modules of the core, those with a
.pxd beside them, are compiled unchanged; PLAIT_PURE=1 leaves them as they are. Before anything is compiled, the compiler,
Python.h and greenlet.h are tried out, so that what is missing is said in a sentence instead of a page of errors.
"""

import importlib.util
import os
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

SOURCE = Path("src")
NATIVE = SOURCE / "plait/_native"
# Compiled without a .pxd, for what compiled code does not do. It leaves no Python frame on a parked stack. And it is not
# interrupted: signal handlers run, and Ctrl-C is raised, between instructions of Python and in waits alone, so what must
# be done as a whole in the main thread (claim a wait and wake who waits; end a group) is done as a whole.
UNTYPED = [
    SOURCE / f"plait/{name}.py"
    for name in (
        "_core/_deadline",
        "_core/_lookout",
        "_core/_misuse",
        "_core/_number",
        "_core/_offload",
        "_core/_platform",
        "_core/_stacks",
        "_arrivals",
        "_calls",
        "_channels",
        "_collect",
        "_deadlock",
        "_default",
        "_executors",
        "_failures",
        "_group_scope",
        "_holding",
        "_joining",
        "_limits",
        "_mutex",
        "_offload",
        "_options",
        "_rwlock",
        "_scopes",
        "_select",
        "_spawning",
        "_starts",
        "_stragglers",
        "_threads",
        "testing/_faults",
        "lowlevel",
        "patch/_buffered",
        "patch/_closing",
        "patch/_descriptors",
        "patch/_locks",
        "patch/_looks",
        "patch/_processes",
        "patch/_queues",
        "patch/_registry",
        "patch/_rlocks",
        "patch/_semaphores",
        "patch/_signals",
        "patch/_threads",
        "patch/_tls",
        "patch/_twins",
        "patch/_watches",
        "patch/_workers",
    )
]
# Their .pxd is compiled into all that cimport it; the .py is for the uncompiled core alone.
INLINE = [SOURCE / "plait/_core/_quiet.py"]
COUNTS = NATIVE / "counts.h"
FLAGS = ["-std=gnu11", "-O2", "-g0", "-fno-strict-aliasing", "-fvisibility=hidden", "-include", str(COUNTS)]
INSTALL = "on Debian, apt-get install gcc python3-dev"


def refuse_unsupported_pythons() -> None:
    if sys.implementation.name != "cpython":
        sys.exit(f"plait needs CPython: it cannot be built for {sys.implementation.name}")
    if sysconfig.get_config_var("Py_GIL_DISABLED") and sys.version_info < (3, 14, 4):
        sys.exit(
            "plait needs CPython 3.14.4 or newer on free-threaded builds, and this is a free-threaded "
            f"{sys.version.split()[0]}: earlier ones free objects that are still in use on parked stacks; use an ordinary build"
        )


def greenlet_include() -> str:
    """The directory for which `#include <greenlet/greenlet.h>` works."""
    spec = importlib.util.find_spec("greenlet")
    if spec is not None and spec.origin is not None:
        package = Path(spec.origin).parent
        if (package / "greenlet.h").is_file():
            return str(package.parent)
    sys.exit(
        "plait's native package needs greenlet.h, which the greenlet package brings: pip install 'greenlet>=3.5.6,<4'"
    )


class BuildNative(build_ext):
    """build_ext that tries the tools first, and keeps generated C out of the source tree."""

    def build_extensions(self) -> None:
        if sys.platform != "linux":
            sys.exit(f"plait 0.1 runs on Linux only, and this is {sys.platform}: its poller is epoll")
        self.verify_toolchain()
        self.translate()
        self.parallel = self.parallel or len(os.sched_getaffinity(0))  # compilers at a time
        super().build_extensions()

    def verify_toolchain(self) -> None:
        if complaint := self.complaint_about("int probe;\n"):
            sys.exit(f"plait's native package needs a C compiler and the Python headers: {INSTALL} ({complaint})")
        if complaint := self.complaint_about("#include <Python.h>\n"):
            sys.exit(f"plait's native package needs the Python headers (Python.h): {INSTALL} ({complaint})")

    def complaint_about(self, source: str) -> str:
        """The first thing the compiler has to say against `source`; empty if it compiles."""
        command = list(self.compiler.compiler_so)
        includes = [f"-I{directory}" for directory in self.compiler.include_dirs]
        with tempfile.TemporaryDirectory() as scratch:
            probe = Path(scratch, "probe.c")
            probe.write_text(source)
            try:
                done = subprocess.run(
                    [*command, *includes, "-c", str(probe), "-o", str(probe.with_suffix(".o"))],
                    capture_output=True,
                    text=True,
                    check=False,
                )
            except OSError as error:
                return f"{command[0]}: {error.strerror}"
        if done.returncode == 0:
            return ""
        errors = [line.rpartition("error: ")[2] for line in done.stderr.splitlines() if "error: " in line]
        return errors[0] if errors else f"{command[0]} ended with status {done.returncode}"

    def translate(self) -> None:
        """Cython's part: Python to C."""
        from Cython.Build import cythonize  # here, for an sdist is made without it

        translated = cythonize(
            self.extensions,
            build_dir="build/cython",
            include_path=[str(SOURCE)],
            # Annotations are for people and mypy; what is typed in C says so in the .pxd.
            compiler_directives={"language_level": 3, "freethreading_compatible": True, "annotation_typing": False},
        )
        for ext, done in zip(self.extensions, translated, strict=True):
            assert ext.name == done.name
            ext.sources = done.sources
            ext.include_dirs.append(greenlet_include())


def native() -> Extension:
    return Extension(
        "plait._native._native",
        sources=[str(NATIVE / "_native.pyx"), *sorted(str(path) for path in NATIVE.glob("*.c"))],
        depends=[str(path) for pattern in ("*.h", "*.pxd", "*.pxi") for path in sorted(NATIVE.glob(pattern))],
        include_dirs=[str(NATIVE)],
        extra_compile_args=FLAGS,
    )


def compiled_core() -> list[Extension]:
    if os.environ.get("PLAIT_PURE", "0") not in {"", "0"}:
        return []
    declarations = sorted(str(path) for path in SOURCE.glob("plait/**/*.pxd"))
    typed = [Path(path).with_suffix(".py") for path in declarations if Path(path).with_suffix(".py").exists()]
    return [
        Extension(
            ".".join(path.relative_to(SOURCE).with_suffix("").parts),
            sources=[str(path)],
            depends=[*declarations, str(COUNTS)],
            include_dirs=[str(NATIVE)],
            extra_compile_args=FLAGS,
        )
        for path in [*typed, *UNTYPED]
        if path not in INLINE
    ]


refuse_unsupported_pythons()
setup(ext_modules=[native(), *compiled_core()], cmdclass={"build_ext": BuildNative})
