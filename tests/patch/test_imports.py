"""Import is no cancel point, and is not torn apart; what a module does in its own scopes while it loads is as ever."""

import sys

import pytest
from patch.helpers import run_python

from plait import ThreadGroup, _native

BEGIN = """
    import importlib, os, sys, threading, time, plait
    sys.path.insert(0, os.environ["MODULES"])
    from plait._core import current_thread

    def on(where, body):
        return body() if where == "main" else plait.spawn(body).result()
"""


@pytest.fixture
def modules(tmp_path):
    """A directory of modules, for programs."""
    texts = {
        "quick": "loaded = True",
        "waiting": """
import builtins, threading
builtins.times = getattr(builtins, "times", 0) + 1
builtins.loading = plait_thread()
gate.acquire()
""",
        "scoped": """
import time, plait
with plait.move_on_after(0.01) as scope:
    time.sleep(3600)
with plait.ThreadGroup(on_error="collect") as group:
    group.cancel()
    time.sleep(3600)
left_open = plait.ThreadGroup()
left_open.__enter__()
""",
        "endless": "import time; time.sleep(3600)",
        "failing": "import quick; quick.missing",
    }
    for name, text in texts.items():
        (tmp_path / f"{name}.py").write_text(text)
    return str(tmp_path)


WHERE = pytest.mark.parametrize("where", ["main", "virtual"])


@WHERE
def test_import_under_a_cancelled_scope(modules, where):
    """It is no cancel point, however often it looks at files; the next point is one."""
    code = f"""{BEGIN}
    def body():
        with plait.ThreadGroup() as group:
            group.cancel()
            import quick
            import wave, xml.dom.minidom
            steps.append(quick.loaded)
            plait.checkpoint()
            steps.append("not cancelled")
    steps = []
    on({where!r}, body)
    print(steps)
    """
    assert run_python(code, MODULES=modules) == "[True]\n"


@WHERE
def test_import_that_waits_is_not_torn_apart(modules, where):
    """A module whose body waits is loaded once, though the thread is cancelled meanwhile."""
    code = f"""{BEGIN}
    import builtins
    builtins.gate = threading.Event()
    builtins.gate.acquire = builtins.gate.wait
    builtins.plait_thread = current_thread
    def body():
        with plait.ThreadGroup() as group:
            threading.Thread(target=cancel, args=(group,)).start()
            import waiting
            steps.append("loaded")
            plait.checkpoint()
            steps.append("not cancelled")
    def cancel(group):
        while not (hasattr(builtins, "loading") and loading.waits_for and loading.is_waiting()):
            time.sleep(0.001)
        parks = loading.park_count
        group.cancel()
        while loading.park_count == parks:  # it has looked, and waits on
            time.sleep(0.001)
        gate.set()
    steps = []
    on({where!r}, body)
    import waiting
    print(steps, times)
    """
    assert run_python(code, MODULES=modules) == "['loaded'] 1\n"


@WHERE
def test_import_that_never_ends_is_given_up_after_the_grace(modules, where):
    """No import can hang a group."""
    code = f"""{BEGIN}
    def body():
        with plait.ThreadGroup(grace=0.05) as group:
            group.cancel()
            import endless
    on({where!r}, body)
    print("endless" in sys.modules)
    """
    assert run_python(code, MODULES=modules) == "False\n"


@WHERE
def test_scopes_that_a_module_opens_while_it_loads(modules, where):
    """They end at their time, and may be left open for the importer to close."""
    code = f"""{BEGIN}
    def body():
        with plait.ThreadGroup():
            before = current_thread().patient_since
            import scoped
            scoped.left_open.__exit__(None, None, None)
            return scoped.scope.cancelled_caught, current_thread().patient_since == before
    print(on({where!r}, body))
    """
    assert run_python(code, MODULES=modules) == "(True, True)\n"


@WHERE
def test_tracebacks_of_failed_imports(modules, where):
    """They have the frames that they have always had."""
    code = f"""{BEGIN}
    import traceback
    def body():
        with plait.ThreadGroup():
            try:
                import failing
            except AttributeError as error:
                return [frame.name for frame in traceback.extract_tb(error.__traceback__)]
    print(on({where!r}, body))
    """
    assert run_python(code, MODULES=modules) == "['body', '<module>']\n"


def test_uninstall_puts_the_import_system_back():
    """The very same function."""
    code = """
        import importlib, plait
        before = importlib._bootstrap._find_and_load
        plait.patch.install()
        name = "importlib._bootstrap._find_and_load"
        assert plait.patch.status()[name]
        plait.patch.uninstall()
        print(importlib._bootstrap._find_and_load is before, plait.patch.status()[name].is_patched)
    """
    assert run_python(code) == "True False\n"


def test_what_is_around_a_call_may_fail():
    """What `begin` or `end` raises comes out, and the call's own outcome if they do not."""

    def fail(*args):
        raise KeyError(args)

    steps = []
    around = _native.around
    with ThreadGroup():
        with pytest.raises(KeyError):
            around(steps.append, fail, steps.append)("call")
        assert steps == []
        with pytest.raises(KeyError):
            around(steps.append, lambda: "begun", fail)("call")
        assert steps == ["call"]
        with pytest.raises(ZeroDivisionError):
            around(divmod, lambda: "begun", steps.append)(1, 0)
        assert steps == ["call", "begun"]
        assert around(int, lambda: None, steps.append)("11", base=2) == 3
    assert around(int, fail, fail)("11", base=2) == 3


@pytest.mark.skipif(sys.version_info < (3, 15), reason="nothing is imported lazily before 3.15")
def test_name_that_many_come_to_while_it_loads(modules, tmp_path):
    """A module that is imported lazily, and takes long to load, is there for all who use its name meanwhile."""
    (tmp_path / "long.py").write_text(
        'import os, time\nend = time.monotonic() + 0.1\nwhile time.monotonic() < end: os.write(out, b".")\nvalue = 5\n'
    )
    code = f"""{BEGIN}
    import builtins
    builtins.out = os.open(os.devnull, os.O_WRONLY)
    lazy import long
    with plait.ThreadGroup() as group:
        futures = [group.spawn(lambda: long.value) for _ in range(50)]
    print({{future.result() for future in futures}})
    """
    assert run_python(code, MODULES=modules) == "{5}\n"


@pytest.mark.skipif(sys.version_info < (3, 15), reason="nothing is imported lazily before 3.15")
def test_files_that_a_name_uses_while_it_loads(modules, tmp_path):
    """Who loads it under the import lock has no worker wait for the disk; who imports, as ever, has."""
    for name in ("lazily", "at_once"):
        (tmp_path / f"{name}.py").write_text("import os\nwith open(__file__) as file: os.fsync(file.fileno())")
    code = f"""{BEGIN}
    from plait._core import runtime
    lazy import lazily
    def body():
        with plait.ThreadGroup() as group:
            group.spawn(lambda: lazily).result()
            before = runtime.offload.counts().workers
            import at_once
            print(before, runtime.offload.counts().workers)
    plait.spawn(body).result()
    """
    assert run_python(code, MODULES=modules) == "0 1\n"
