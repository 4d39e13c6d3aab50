"""`python -m plait`: a program finds what `python` itself would have made, and ends as it would have ended."""

import os
import signal
import subprocess
import sys
import textwrap
import zipfile

import pytest
from support import finish

from plait.__main__ import main

SHOW = """
import sys
print(__name__, __package__, type(__spec__).__name__, __file__.rpartition("/")[2], sys.argv[1:])
print(sys.path[0], sys.modules["__main__"].__dict__ is globals(), sys.argv[0], __file__)
print(sys.path, sorted(globals()), globals().get("__cached__"), globals().get("__annotations__"))
"""


def run(*arguments, plait=True, stdin="", cwd=None, **env):
    """Status, stdout and stderr of a command."""
    path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path if entry)
    done = subprocess.run(
        [sys.executable, *(["-m", "plait"] if plait else []), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": path, **env},
        cwd=cwd,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def program(tmp_path):
    """Writes a program; its path."""

    def program(code, name="app.py"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(textwrap.dedent(code))
        return path

    return program


@pytest.mark.parametrize("is_relative", [False, True], ids=["absolute", "relative"])
@pytest.mark.parametrize("kind", ["script", "link", "directory", "zip", "module", "package"])
def test_a_program_finds_what_it_expects(kind, is_relative, program, tmp_path):
    """Name, package, spec, file, arguments and path are the same as without plait."""
    path = program(SHOW, "folder/__main__.py" if kind in ("directory", "package") else "app.py")
    if kind == "link":
        (tmp_path / "bin").mkdir()
        link = tmp_path / "bin/app.py"
        link.symlink_to(path)
        path = link
    elif kind == "zip":
        with zipfile.ZipFile(tmp_path / "app.zip", "w") as archive:
            archive.write(path, "__main__.py")
        path = tmp_path / "app.zip"
    if is_relative:
        path = f"./{path.relative_to(tmp_path)}"
    what = {"directory": [os.path.dirname(path)], "module": ["-m", "app"], "package": ["-m", "folder"]}.get(
        kind, [path]
    )
    ours = run(*what, "-x", "y", "--virtual-threads", cwd=tmp_path)
    theirs = run(*what, "-x", "y", "--virtual-threads", plait=False, cwd=tmp_path)
    assert ours == theirs
    assert ours[0] == 0


def test_code_and_standard_input(tmp_path):
    """So are `-c` and `-`."""
    code = "import sys; print(sys.argv, sys.path, __name__, __spec__, sorted(globals()), globals().get('__file__'))"
    assert run("-c", code, "-h", cwd=tmp_path) == run("-c", code, "-h", plait=False, cwd=tmp_path)
    assert run("-", "x", stdin=code, cwd=tmp_path) == run("-", "x", stdin=code, plait=False, cwd=tmp_path)


@pytest.mark.parametrize(
    "code",
    [
        "1 / 0",
        "import sys; sys.exit('a message')",
        "raise KeyboardInterrupt",
        "1 +",
        "import sys; sys.excepthook = lambda kind, error, traceback: print(kind, traceback.tb_lineno); 1 / 0",
        "import atexit; atexit.register(print, 'at exit'); raise ExceptionGroup('several', [ValueError(1), KeyError(2)])",
    ],
)
def test_ends_of_a_program(code, program):
    """Status and traceback are the same as without plait: none of its frames is in it."""
    path = program(code)
    assert run(path) == run(path, plait=False)
    assert run("-c", code) == run("-c", code, plait=False)
    assert run("-", stdin=code) == run("-", stdin=code, plait=False)


ENDS = [
    "1 / 0",
    "import sys; sys.excepthook = None; 1 / 0",
    "import sys; del sys.excepthook; 1 / 0",
    "import sys; sys.excepthook = lambda kind, error, traceback: sys.exit(9); 1 / 0",
    "import sys\ndef hook(kind, error, traceback):\n    raise RuntimeError('in the hook')\nsys.excepthook = hook\n1 / 0",
    "import sys; sys.exit(3)",
    "1 +",
]
LOOK = """
import atexit, sys
def look():
    traceback = getattr(sys, "last_traceback", None)
    print(getattr(sys, "excepthook", None) is sys.__excepthook__, traceback and traceback.tb_frame.f_code.co_filename)
atexit.register(look)
"""


@pytest.mark.parametrize("code", ENDS)
def test_hooks_at_the_end_of_a_program(code, program):
    """A hook that is missing or fails is told of as ever; and once the exception is shown it is in its place again."""
    path = program(LOOK + code if code in ENDS[:-1] else code)
    assert run(path) == run(path, plait=False)
    ours = run("-i", "-m", "plait", path, plait=False, stdin="look()\n1 / 0\n")
    assert ours == run("-i", path, plait=False, stdin="look()\n1 / 0\n")


def test_ends_in_a_function():
    """The lines of `-c` are in the traceback where `python` has them there."""
    code = "def f(x):\n    return [1 / y for y in x]\nprint(f([1]), flush=True)\nf([0])"
    assert run("-c", code) == run("-c", code, plait=False)


@pytest.mark.parametrize("what", [["-m", "nowhere"], ["-m", "nowhere.at.all"], ["-m", "xml"], ["."], ["nowhere.py"]])
def test_a_program_that_is_not_there(what, tmp_path):
    """The status, and what is said of it, are those of `python`."""
    ours = run(*what, cwd=tmp_path)
    theirs = run(*what, plait=False, cwd=tmp_path)
    assert ours[:2] == theirs[:2]
    assert ours[2].removeprefix("python -m plait: ") == theirs[2].removeprefix(f"{sys.executable}: ")


def test_a_program_without_a_source(program, tmp_path):
    """A compiled file runs."""
    import py_compile

    compiled = py_compile.compile(program(SHOW), str(tmp_path / "app.pyc"))
    assert run(compiled, cwd=tmp_path) == run(compiled, plait=False, cwd=tmp_path)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "there is no program to run"),
        (["--virtual-threads"], "there is no program to run"),
        (["-m"], "-m needs an argument"),
        (["-c"], "-c needs an argument"),
        (["--wrong", "x.py"], "unknown option --wrong"),
        (["/nowhere/app.py"], "can't open file '/nowhere/app.py': [Errno 2] No such file or directory"),
        (["/"], "can't find '__main__' module in '/'"),
        (["-m", "nowhere"], "No module named nowhere"),
        (["-m", "json"], "No module named json.__main__; 'json' is a package and cannot be directly executed"),
        (["-m", "nowhere.at.all"], "Error while finding module specification for 'nowhere.at.all'"),
        (["-m", "sys"], "No code object available for sys"),
    ],
)
def test_misuse(arguments, said, capsys, monkeypatch):
    """What is wrong is said in a line: with status 2, or 1 where there is no program, as `python` does it."""
    monkeypatch.setattr(sys, "argv", ["plait"])
    monkeypatch.setattr(sys, "path", list(sys.path))
    if arguments == ["-m", "json"] and sys.version_info >= (3, 14):
        arguments = ["-m", "email"]
        said = said.replace("json", "email")
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == (1 if arguments[:1] == ["/"] or len(arguments) == 2 and arguments[0] == "-m" else 2)
    out, err = capsys.readouterr()
    assert not out
    assert err.startswith(f"python -m plait: {said}")
    assert err.count("\n") == 1


def test_help(capsys):
    """-h says what there is."""
    main(["-h"])
    out, err = capsys.readouterr()
    assert not err
    assert out.startswith("usage: python -m plait ")
    main(["--help"])
    assert capsys.readouterr().out == out
    assert max(map(len, out.splitlines())) <= 100


def test_status():
    """--status prints the table: alone, or after the program."""
    status, out, err = run("--status")
    assert (status, err) == (0, "")
    assert "time.sleep" in out
    code = "import plait, time; plait.spawn(time.sleep, 0.001).result(); print('done')"
    status, out, err = run("--status", "-c", code)
    assert (status, out) == (0, "done\n")
    (line,) = (line for line in err.splitlines() if line.startswith("time.sleep "))
    assert line.split() == ["time.sleep", "yes", "1", "plait/patch/_time.py"]


def test_patched_from_the_first_line(program):
    """The program need not import plait; its threads stay what they are."""
    path = program("""
        import sys, threading
        thread = threading.Thread(target=lambda: print(threading.get_ident() % 2))
        thread.start()
        thread.join()
        print(any(sys.modules["plait"].patch.status().values()))
    """)
    assert run(path) == (0, "0\nTrue\n", "")
    assert run(path, PLAIT_PATCH="0") == (0, "0\nFalse\n", "")
    status, _, err = run("--virtual-threads", path, PLAIT_PATCH="0")
    assert status == 2
    assert err == "python -m plait: --virtual-threads needs the leaves, and PLAIT_PATCH=0 has turned them off\n"


def test_main_is_the_main_thread(program):
    """Signals come to the program as ever, and Ctrl-C while it waits for its virtual threads at the end is one line."""
    path = program("""
        import os, signal, threading, time
        signal.signal(signal.SIGUSR1, lambda *_: print("signal", threading.current_thread() is threading.main_thread()))
        os.kill(os.getpid(), signal.SIGUSR1)
        try:
            threading.Thread(target=time.sleep, args=(0.01,)).start()
            print("ready", flush=True)
            while True:
                time.sleep(0.05)  # a signal that comes just before a sleep does not end it, and has its turn after it
        except KeyboardInterrupt:
            print("interrupted")
    """)
    process = subprocess.Popen(
        [sys.executable, "-m", "plait", "--virtual-threads", str(path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(os.path.abspath(entry) for entry in sys.path if entry)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout.readline() == "signal True\n"
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        out, err = finish(process)
    assert (process.returncode, out, err) == (0, "interrupted\n", "")


def test_multiprocessing_finds_the_program(program):
    """A process that is spawned imports the program as its main module."""
    path = program("""
        import multiprocessing

        def work(x):
            return x + 1

        if __name__ == "__main__":
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                print(pool.map(work, [1, 2]))
    """)
    assert run(path) == (0, "[2, 3]\n", "")
