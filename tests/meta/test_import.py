"""What `import plait` does, and what it does not."""

from __future__ import annotations

import pytest
from support import run_program


def test_import_starts_nothing_and_changes_nothing():
    """import plait starts no thread, opens no descriptor, patches nothing, imports neither asyncio nor ssl."""
    out, err = run_program("""
        import gc, os, sys, threading
        import _thread, concurrent.futures, logging, queue, select, socket, time, traceback

        def picture():
            modules = ("time", "socket", "threading", "select", "queue", "os", "_thread", "logging")
            return (
                len(os.listdir("/proc/self/task")),
                sorted(os.listdir("/proc/self/fd")),
                {name: {key: id(value) for key, value in vars(sys.modules[name]).items()} for name in modules},
                [dict(vars(cls)) for cls in (threading.Condition, threading.Thread, threading._DummyThread)],
                list(gc.callbacks),
            )

        before = picture()
        import plait
        for was, then in zip(before, picture()):
            print(was == then)
        print([name for name in ("asyncio", "ssl") if name in sys.modules])
        print(dict(plait.patch.status()))
        from plait._core import runtime
        print(runtime.is_started)
    """)
    assert out.splitlines() == ["True"] * 5 + ["[]", "{}", "False"], err


def test_import_is_enough():
    """No other line is needed: a first group starts the runtime by itself, and the process ends by itself."""
    out, err = run_program("""
        import time
        from plait import ThreadGroup
        with ThreadGroup() as group:
            future = group.spawn(time.sleep, 0.001)
        print(future.result())
    """)
    assert (out, err) == ("None\n", "")


@pytest.mark.parametrize(
    ("version", "sentence"),
    [
        (
            (3, 13, 7, "final", 0),
            "plait does not support free-threaded Python 3.13: use free-threaded 3.14.4 or later, or a build with a GIL",
        ),
        (
            (3, 14, 3, "final", 0),
            (
                "plait needs free-threaded Python 3.14.4 or later: greenlet's builds for 3.14t crash on earlier patch releases "
                "(this is 3.14.3)"
            ),
        ),
    ],
)
def test_interpreter_that_is_refused(version, sentence):
    """On an interpreter that would crash nothing is loaded: the ImportError says what to use instead."""
    out, _ = run_program(f"""
        import concurrent.futures, dataclasses, logging, queue, sys, sysconfig, threading, traceback
        sys.version_info = {version!r}
        sys.version = {".".join(map(str, version[:3]))!r} + " free-threading build"
        sysconfig.get_config_var = lambda name: 1
        try:
            import plait
        except ImportError as error:
            print(error)
        print("greenlet" in sys.modules)
    """)
    assert out.splitlines() == [sentence, "False"]


def test_patch_can_be_turned_off():
    """PLAIT_PATCH=0 leaves the standard library alone."""
    out, _ = run_program(
        "import plait; plait.spawn(int).result(); print(any(plait.patch.status().values()))", PLAIT_PATCH=0
    )
    assert out == "False\n"


def test_warnings_and_dev_mode_are_silent():
    """In development mode, with warnings as errors, an ordinary program has nothing to say."""
    out, err = run_program(
        """
        import sys, time, plait
        with plait.ThreadGroup(max_concurrency=2, timeout=60) as group:
            for _ in range(5):
                group.spawn(time.sleep, 0.001)
        with plait.move_on_after(0.001):
            time.sleep(1)
        print("done")
        """,
        PYTHONDEVMODE=1,
        PYTHONWARNINGS="error",
    )
    assert (out, err) == ("done\n", "")
