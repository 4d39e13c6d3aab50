"""What `import plait` does, and what it does not."""

from __future__ import annotations

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
        print(plait.patch.status())
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
