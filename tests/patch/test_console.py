"""input() on a virtual thread: at a terminal and away from it, with readline and without it."""

import os
import subprocess
import sys
import textwrap

import pytest
from patch.helpers import PATIENCE, run_python

CODE = """
    import os, sys, time
    {imports}
    from plait import Cancelled, ThreadGroup

    ticks = []

    def tick():
        while not asked.done():
            time.sleep(0.005)
            ticks.append(1)

    def ask():
        return input("name? ")

    with ThreadGroup() as group:
        asked = group.spawn(ask)
        group.spawn(tick)
        while len(ticks) < 5:
            time.sleep(0.005)
        print("ticking", flush=True)
    print(repr(asked.result()), flush=True)

    with ThreadGroup() as group:
        asked = group.spawn(ask)
        while asked.waits_for is None:
            time.sleep(0.001)
        asked.cancel()
    print(asked.cancelled(), flush=True)

    def end():
        try:
            input()
        except EOFError as error:
            return str(error)

    with ThreadGroup() as group:
        asked = group.spawn(end)
    print(asked.result(), flush=True)
"""


@pytest.mark.parametrize("imports", ["", "import readline"], ids=["plain", "readline"])
def test_input_at_a_terminal(imports):
    """It parks while others tick, gives the line, can be cancelled, and finds the end."""
    pytest.importorskip("readline")
    near, far = os.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(CODE.format(imports=imports))],
        stdin=far,
        stdout=far,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "TERM": "dumb"},
    ) as process:
        os.close(far)
        try:
            shown = b""
            for wanted, answer in ((b"ticking", b"Ada\n"), (b"True", b"\x04")):
                while wanted not in shown:
                    shown += os.read(near, 1000)
                os.write(near, answer)
            while b"EOF" not in shown:
                shown += os.read(near, 1000)
            assert process.wait(PATIENCE) == 0, process.stderr.read()
        finally:
            process.kill()
            os.close(near)
    assert b"name? " in shown
    assert b"'Ada'" in shown


def test_input_from_a_pipe():
    """Away from a terminal it is CPython's, and parks in the file below."""
    code = """
        import os, sys
        reader, writer = os.pipe()
        os.dup2(reader, 0)
        from plait import ThreadGroup

        with ThreadGroup() as group:
            asked = group.spawn(input, "name? ")
            while asked.waits_for is None:
                pass
            os.write(writer, b"Ada\\n")
        print(asked.result())
    """
    assert run_python(code) == "name? Ada\n"
