"""What is done last when the process ends, and not before it does."""

import sys

import pytest
from support import run_program


def test_carriers_stop_after_all_handlers():
    """Handlers find virtual threads at work, however early they were registered; finalizers of modules do not."""
    out, err = run_program("""
        import atexit
        atexit.register(lambda: print(plait.gather(int), len(runtime.started_carriers) > 0))
        import plait
        from plait._core import runtime

        class Last:
            def __del__(self, group=plait.ThreadGroup, runtime=runtime):
                print(len(runtime.started_carriers))
                try:
                    with group():
                        pass
                except RuntimeError as error:
                    print(error)

        last = Last()
        plait.gather(int)
    """)
    assert out.splitlines() == ["[0] True", "0", "virtual threads cannot be started any more: the process is ending"]
    assert err == ""


@pytest.mark.skipif(sys.version_info[:2] == (3, 12), reason="3.12 starts no kernel thread in a handler")
def test_carriers_that_a_handler_has_started_stop_too():
    """The first spawn of all is made by a handler, and daemons compute when the process ends."""
    out, err = run_program("""
        import atexit, os, sys, plait
        from plait._core import runtime

        def compute():
            while True:
                plait.checkpoint()

        def late():
            with plait.ThreadGroup() as group:
                print(group.spawn(int).result(), flush=True)
            plait.Thread(target=compute, daemon=True).start()

        class Last:
            def __del__(self, runtime=runtime, write=os.write):
                write(1, f"{len(runtime.started_carriers)}\\n".encode())

        sys.last = Last()  # the stack of a daemon keeps what is in its own module
        atexit.register(late)
    """)
    assert (out.splitlines(), err) == (["0", "0"], "")


def test_handlers_that_are_called_or_forgotten_before_the_end():
    """While the process goes on, so do virtual threads: `multiprocessing` does such things in forked children."""
    out, err = run_program("""
        import atexit, plait
        from plait._core import runtime

        class Last:
            def __del__(self, runtime=runtime):
                print(len(runtime.started_carriers))

        last = Last()
        plait.gather(int)
        atexit._run_exitfuncs()
        print(plait.gather(int))
        atexit._clear()
        print(plait.gather(int))
    """)
    assert (out.splitlines(), err) == (["[0]", "[0]", "0"], "")


def test_a_child_that_a_handler_forks():
    """It may forget the handlers, as `multiprocessing` does, and run virtual threads of its own."""
    out, err = run_program("""
        import atexit, os, sys, plait
        plait.gather(int)

        def late():
            if sys.version_info[:2] == (3, 12):  # which refuses to fork by now
                os.write(1, b"[0]\\n")
            elif not (pid := os.fork()):
                atexit._clear()
                os.write(1, f"{plait.gather(int)}\\n".encode())
                os._exit(0)
            else:
                os.waitpid(pid, 0)

        atexit.register(late)
    """)
    assert out == "[0]\n"
