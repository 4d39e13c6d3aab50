"""`python -m plait`: runs a program with the leaves patched from its first line, and its threads virtual if asked to.

The program runs on the main thread, as ever, so signals come to it as ever. It finds `sys.argv`, `sys.path[0]`,
`__main__` and what comes of its end as `python` itself would have made them: nothing of this file is seen in a traceback.
"""

from __future__ import annotations

import importlib.util
import io
import linecache
import os
import pkgutil
import sys
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader, SourcelessFileLoader
from types import CodeType, ModuleType, TracebackType
from typing import Any

USAGE = """\
usage: python -m plait [--virtual-threads] [--status] (FILE | -m MODULE | -c CODE) [ARGUMENT ...]
       python -m plait --status

Run a program in which blocking calls on virtual threads park, from its first line on.
FILE is a script, or a directory or zip file with a __main__.py, as for python itself; what
follows it belongs to the program.

options:
  --virtual-threads  every threading.Thread that the program starts is virtual, and so are the
                     threads of its executors and servers
  --status           say on stderr, when the program has ended, what is patched and how often
                     it has parked; without a program, on stdout, and that is all
  -m MODULE          run a module, or a package's __main__
  -c CODE            run this code
  -h, --help         show this and exit

With PLAIT_PATCH=0 in the environment nothing is patched.
"""

_OPTIONS = ("--virtual-threads", "--status")


class UsageError(Exception):
    """The command line, or the file that it names, is not what it should be."""

    status = 2  # of the process


class NoProgramError(UsageError):
    """There is no program where the command line says."""

    status = 1


def _command(arguments: list[str]) -> tuple[set[str], list[str]]:
    """The options, and what is left: the program and its arguments."""
    options: set[str] = set()
    while arguments and arguments[0] in _OPTIONS:
        options.add(arguments.pop(0))
    if not arguments:
        if options != {"--status"}:
            raise UsageError("there is no program to run")
    elif arguments[0] in ("-m", "-c"):
        if len(arguments) == 1:
            raise UsageError(f"{arguments[0]} needs an argument")
    elif arguments[0].startswith("-") and arguments[0] != "-":
        raise UsageError(f"unknown option {arguments[0]}")
    return options, arguments


def _main_module(spec: ModuleSpec | None, file: str | None) -> ModuleType:
    """An empty `__main__`."""
    module = ModuleType("__main__")
    module.__dict__.update(
        __builtins__=__builtins__,
        __spec__=spec,
        __loader__=None if spec is None else spec.loader,
        __package__=None if spec is None else spec.parent,
    )
    if sys.version_info < (3, 14):
        module.__annotations__ = {}
    if file is not None:
        module.__file__ = file
        if sys.version_info < (3, 15):
            module.__cached__ = None if spec is None else spec.cached  # type: ignore[attr-defined]
    return module


def _absolute(path: str) -> str:
    """As `python` makes the path of a program absolute: what is in it stays as it is written."""
    return os.getcwd() if path == "." else os.path.join(os.getcwd(), path)


def _set_path(entry: str) -> None:
    """What `python` puts first, instead of what it has put there for `-m plait`; nothing if it was told not to."""
    if not sys.flags.safe_path:
        sys.path[0] = entry


def _code_of(spec: ModuleSpec | None, name: str) -> CodeType:
    loader: Any = None if spec is None else spec.loader
    code = loader.get_code(name) if hasattr(loader, "get_code") else None
    if code is None:
        raise NoProgramError(f"No code object available for {name}")
    assert isinstance(code, CodeType)
    return code


def _module(name: str) -> tuple[CodeType, ModuleType]:
    """The program of `-m name`."""
    try:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.submodule_search_locations is not None:
            package, spec = name, importlib.util.find_spec(f"{name}.__main__")
            if spec is None:
                raise NoProgramError(
                    f"No module named {package}.__main__; {package!r} is a package and cannot be directly executed"
                )
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise NoProgramError(
            f"Error while finding module specification for {name!r} ({type(error).__name__}: {error})"
        ) from None
    if spec is None:
        raise NoProgramError(f"No module named {name}")
    code = _code_of(spec, spec.name)
    sys.argv[0] = spec.origin or name
    return code, _main_module(spec, spec.origin)


def _file(path: str) -> tuple[CodeType, ModuleType]:
    """The program in a script, a directory or a zip file."""
    full = _absolute(path)
    if pkgutil.get_importer(full) is not None:  # something that modules can be found in
        spec = PathFinder.find_spec("__main__", [full])
        if spec is None:
            raise NoProgramError(f"can't find '__main__' module in {full!r}")
        sys.path[: not sys.flags.safe_path] = [full]
        return _code_of(spec, "__main__"), _main_module(spec, spec.origin)
    _set_path(os.path.dirname(os.path.realpath(path)))
    module = _main_module(None, full)
    if path.endswith(".pyc"):
        compiled = module.__loader__ = SourcelessFileLoader("__main__", full)
        return compiled.get_code("__main__"), module  # type: ignore[return-value]
    try:
        with io.open_code(full) as file:
            source = file.read()
    except OSError as error:
        raise UsageError(f"can't open file {full!r}: [Errno {error.errno}] {error.strerror}") from None
    module.__loader__ = SourceFileLoader("__main__", full)
    return compile(source, full, "exec", dont_inherit=True), module


def _compiled(source: str) -> CodeType:
    """The program of `-c`, whose lines are in tracebacks from 3.13 on: under its name, then with each code object."""
    code = compile(source, "<string>", "exec", dont_inherit=True)
    if sys.version_info >= (3, 13):
        key = code if sys.version_info >= (3, 14) else "<string>"
        linecache._register_code(key, source, "<string>")  # type: ignore[attr-defined]  # noqa: SLF001 - as `python` does
    return code


def _load(arguments: list[str]) -> tuple[CodeType, ModuleType]:
    """The code to run, and the `__main__` to run it in. Sets what the program shall find in `sys`."""
    what = arguments[0]
    if what == "-m":
        sys.argv[:] = arguments[1:]
        return _module(arguments[1])
    if what == "-c":
        sys.argv[:] = ["-c", *arguments[2:]]
        _set_path("")
        return _compiled(arguments[1]), _main_module(None, None)
    sys.argv[:] = arguments
    if what == "-":
        _set_path("")
        return compile(sys.stdin.read(), "<stdin>", "exec", dont_inherit=True), _main_module(None, "<stdin>")
    return _file(what)


def _without_us(traceback: TracebackType | None) -> TracebackType | None:
    """The part of a traceback that is the program's."""
    while traceback is not None and traceback.tb_frame.f_code.co_filename in (__file__, importlib.util.__file__):
        traceback = traceback.tb_next
    return traceback


_MISSING: Any = object()  # `sys.excepthook` was deleted


class _ExceptHook:
    """`sys.excepthook` for the one exception that ends the program: the hook that was there gets it, without our frames.

    The interpreter calls it when it shows that exception, and from then on the hook of before is in its place again. What
    the interpreter does about a hook that is missing or fails is done here: it would show our frames with that.
    """

    def __init__(self, error: BaseException) -> None:
        self._error = error
        self._traceback = _without_us(error.__traceback__)
        self._hook = getattr(sys, "excepthook", _MISSING)

    def __call__(self, kind: type[BaseException], error: BaseException, traceback: TracebackType | None, /) -> None:
        if error is self._error:
            self._put_back()
            traceback = sys.last_traceback = self._traceback
            error = error.with_traceback(traceback)
        if self._hook is _MISSING:
            sys.stderr.write("sys.excepthook is missing\n")
            sys.__excepthook__(kind, error, traceback)
            return
        try:
            self._hook(kind, error, traceback)
        except BaseException as failure:
            if isinstance(failure, SystemExit) and not sys.flags.inspect:
                raise
            sys.stderr.write("Error in sys.excepthook:\n")
            _show(failure)
            sys.stderr.write("\nOriginal exception was:\n")
            sys.__excepthook__(kind, error, traceback)

    def _put_back(self) -> None:
        if self._hook is _MISSING:
            del sys.excepthook
        else:
            sys.excepthook = self._hook


def _show(failure: BaseException) -> None:
    """Show what a hook has raised."""
    traceback = _without_us(failure.__traceback__)
    sys.__excepthook__(type(failure), failure.with_traceback(traceback), traceback)


def _run(arguments: list[str]) -> None:
    """Run the program; what it raises ends this process, too, and is shown as that of a program of its own."""
    try:
        code, module = _load(arguments)
        sys.modules["__main__"] = module
        exec(code, module.__dict__)  # noqa: S102 - the program
    except UsageError:
        raise
    except BaseException as error:
        if not isinstance(error, SystemExit) or sys.flags.inspect:  # otherwise that is not shown
            sys.excepthook = _ExceptHook(error)
        raise


def _show_status() -> None:
    from plait import patch

    if sys.stderr is not None:
        sys.stderr.write(f"{patch.status()}\n")


def main(arguments: list[str]) -> None:
    """The command."""
    if arguments and arguments[0] in ("-h", "--help"):
        sys.stdout.write(USAGE)
        return
    try:
        options, arguments = _command(arguments)
        is_patched = os.environ.get("PLAIT_PATCH", "1") != "0"
        if "--virtual-threads" in options and not is_patched:
            raise UsageError("--virtual-threads needs the leaves, and PLAIT_PATCH=0 has turned them off")
        from plait import patch

        if is_patched:
            patch.install(virtual_threads="--virtual-threads" in options)
        if not arguments:
            sys.stdout.write(f"{patch.status()}\n")
            return
        if "--status" in options:
            import atexit

            atexit.register(_show_status)
        _run(arguments)
    except UsageError as error:
        sys.stderr.write(f"python -m plait: {error}\n")
        sys.exit(error.status)


if __name__ == "__main__":
    main(sys.argv[1:])
