"""`--virtual-threads`: the threads of an unchanged program are virtual, and it cannot tell, but by their number."""

import sys
import textwrap

import pytest
from threads.test_command import run

COUNT = """
import os, sys, threading
from plait import _native

def is_virtual():
    return type(_native.current()).__name__ == "Future"

def kernel_threads():
    return len(os.listdir("/proc/self/task"))
"""


def run_virtual(code, status=0, **env):
    """What a program prints under --virtual-threads."""
    done, out, err = run("--virtual-threads", "-c", COUNT + textwrap.dedent(code), **env)
    assert (done, err) == (status, ""), err
    return out.splitlines()


def test_threads_of_every_class():
    """Threads, timers and threads of classes that were made before are virtual; their identity is their own."""
    assert run_virtual("""
        import time
        from threading import Thread, Timer

        class Early(Thread):
            def run(self):
                print(is_virtual(), threading.current_thread() is self, self.ident == threading.get_ident())

        for thread in (Early(), Thread(target=lambda: print(is_virtual())), Timer(0.01, lambda: print(is_virtual()))):
            thread.start()
            thread.join()
            print(thread.is_alive())
        print(is_virtual(), threading.current_thread() is threading.main_thread(), threading.active_count())
    """) == ["True True True", "False", "True", "False", "True", "False", "False True 1"]


def test_executors_scale():
    """Five hundred workers of a ThreadPoolExecutor are no kernel threads, initializers and shutdown work as ever."""
    assert run_virtual("""
        from concurrent.futures import ThreadPoolExecutor
        barrier, local = threading.Barrier(500), threading.local()

        def prepare():
            local.value = threading.current_thread().name

        def work(_):
            barrier.wait()
            return is_virtual() and local.value

        ThreadPoolExecutor(1).submit(int).result()
        before = kernel_threads()
        with ThreadPoolExecutor(500, initializer=prepare, thread_name_prefix="w") as executor:
            names = set(executor.map(work, range(500)))
            print(len(names), all(name.startswith("w_") for name in names), kernel_threads() - before)
        left = ThreadPoolExecutor(2)
        for number in range(3):
            left.submit(lambda: (__import__("time").sleep(0.01), print("at exit\\n", end="")))
    """) == ["500 True 0", "at exit", "at exit", "at exit"]


def test_socketserver_scales():
    """A server that starts a thread for each request serves three hundred at a time on its carriers."""
    assert run_virtual("""
        import socket, socketserver

        everybody = threading.Barrier(301)

        class Handler(socketserver.StreamRequestHandler):
            def handle(self):
                line = self.rfile.readline()
                everybody.wait()
                self.wfile.write(line.upper())

        class Server(socketserver.ThreadingTCPServer):
            request_queue_size = 512
            daemon_threads = False

        def talk(address):
            with socket.create_connection(address) as sock, sock.makefile("rwb") as file:
                file.write(b"hello\\n")
                file.flush()
                return file.readline()

        from concurrent.futures import ThreadPoolExecutor
        with Server(("127.0.0.1", 0), Handler) as server, ThreadPoolExecutor(300) as executor:
            loop = threading.Thread(target=server.serve_forever, args=(0.01,))
            loop.start()
            answers = [executor.submit(talk, server.server_address) for _ in range(300)]
            everybody.wait()
            print(kernel_threads() < 20)
            print({answer.result() for answer in answers})
            server.shutdown()
            loop.join()
    """) == ["True", "{b'HELLO\\n'}"]


def test_http_server():
    """`http.server`, as a module of the command line would run it, answers clients on other threads."""
    assert run_virtual("""
        import http.server, urllib.request

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200)
                self.end_headers()
                self.wfile.write(str(is_virtual()).encode())

            def log_message(self, *args):
                pass

        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
            print(urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}").read())
            server.shutdown()
    """) == ["b'True'"]


def test_pools_of_processes_keep_their_own_threads_real():
    """What keeps processes going stays real; a `ThreadPool` of multiprocessing works on virtual threads."""
    assert run_virtual("""
        import concurrent.futures, multiprocessing, multiprocessing.pool

        context = multiprocessing.get_context("fork" if sys.version_info < (3, 12) else "forkserver")
        if __name__ == "__main__":
            with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as executor:
                print(list(executor.map(abs, [-1, -2])))
                print(any(thread.ident % 2 for thread in threading.enumerate()))
            with multiprocessing.pool.ThreadPool(3) as pool:
                print(set(pool.map(lambda _: is_virtual(), range(10))))
            numbers = context.Queue()
            process = context.Process(target=numbers.put, args=(5,))
            process.start()
            print(numbers.get())
            process.join()
            numbers.put(6)
            print(numbers.get())
    """) == ["[1, 2]", "False", "{True}", "5", "6"]


def test_threads_that_are_given_what_processes_share():
    """A thread of the program's is virtual, whatever it is given, and though it runs a method of multiprocessing's."""
    assert run_virtual("""
        import multiprocessing
        from plait._threads import is_virtual as started_virtual

        context = multiprocessing.get_context("fork" if sys.version_info < (3, 12) else "forkserver")
        queue, simple, (reader, writer) = context.Queue(), context.SimpleQueue(), context.Pipe()
        seen = []
        for given in (queue, simple, reader, context.Lock()):
            threads = [
                threading.Thread(target=lambda given: seen.append(is_virtual()), args=(given,)),
                threading.Thread(target=lambda given: seen.append(is_virtual()), kwargs={"given": given}),
            ]
            for thread in threads:
                thread.start()
                thread.join()
        print(seen == 8 * [True])
        getter = threading.Thread(target=queue.get)
        getter.start()
        queue.put(5)
        getter.join()
        print(started_virtual(getter))
        print([thread.ident % 2 for thread in threading.enumerate() if thread.name == "QueueFeederThread"])
    """) == ["True", "True", "[0]"]


@pytest.mark.skipif(sys.version_info < (3, 14), reason="InterpreterPoolExecutor is new in 3.14")
def test_workers_of_other_interpreters_stay_real():
    """What runs in another interpreter is not plait's."""
    assert run_virtual("""
        from concurrent.futures import InterpreterPoolExecutor
        with InterpreterPoolExecutor(2) as executor:
            print(list(executor.map(abs, [-1, -2])))
            print(any(thread.ident % 2 for thread in threading.enumerate()))
    """) == ["[1, 2]", "False"]


def test_daemons_end_with_the_process():
    """Daemon threads do not keep the process, and nothing of them runs at its end."""
    assert run_virtual("""
        import time
        def forever():
            try:
                while True:
                    try:
                        time.sleep(0.001)
                    except BaseException:
                        pass
            finally:
                print("never")
        threading.Thread(target=forever, daemon=True).start()
        threading.Thread(target=lambda: (time.sleep(0.02), print("done"))).start()
    """) == ["done"]


def test_reloader_runs_the_program_as_it_was_run(tmp_path):
    """Django's development server starts itself once more with plait and its options, and as ever after `uninstall`."""
    folder = tmp_path / "django/utils"
    folder.mkdir(parents=True)
    for package in (folder.parent, folder):
        (package / "__init__.py").touch()
    (folder / "autoreload.py").write_text("def get_child_arguments():\n    return ['without plait']\n")
    app = tmp_path / "app.py"
    app.write_text("""if True:
        import plait
        from django.utils import autoreload
        print(autoreload.get_child_arguments())
        plait.patch.uninstall()
        print(autoreload.get_child_arguments())
    """)
    command = [*("-W", "error"), "-m", "plait", "--virtual-threads", str(app), "runserver"]
    done, out, err = run(*command, plait=False)
    assert (done, err) == (0, "")
    assert out.splitlines() == [str([sys.executable, *command]), "['without plait']"]


def test_failures_go_to_the_hook():
    """`threading.excepthook` is told, with the thread."""
    assert run_virtual("""
        threading.excepthook = lambda args: print(args.exc_type.__name__, args.thread.name)
        thread = threading.Thread(target=lambda: 1 / 0, name="worker")
        thread.start()
        thread.join()
    """) == ["ZeroDivisionError worker"]


def test_hooks_for_tracing():
    """`threading.settrace` and `setprofile` see what a thread runs."""
    assert run_virtual("""
        seen = set()
        def work():
            pass
        def trace(frame, event, arg):
            seen.add((event, frame.f_code.co_name))
        threading.settrace(trace)
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        threading.settrace(None)
        print(("call", "work") in seen)
    """) == ["True"]


def test_asyncio_in_threads():
    """`asyncio.to_thread` and loops in threads of their own work."""
    assert (
        run_virtual("""
        import asyncio, time

        async def main():
            print(f"{await asyncio.to_thread(is_virtual)}\\n", end="")
            await asyncio.gather(*(asyncio.to_thread(time.sleep, 0.01) for _ in range(20)))

        threads = [threading.Thread(target=asyncio.run, args=(main(),)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        asyncio.run(main())
    """)
        == ["True"] * 4
    )


def test_fork_in_a_thread():
    """In a child the thread that has forked is the main thread, and can start others."""
    assert run_virtual(
        """
        def fork():
            pid = os.fork()
            if not pid:
                other = threading.Thread(target=lambda: os.write(1, b"in the child\\n"))
                other.start()
                other.join()
                os.write(1, f"{threading.current_thread() is threading.main_thread()}\\n".encode())
                os._exit(0)
            os.waitpid(pid, 0)

        gate = threading.Event()
        others = [threading.Thread(target=gate.wait) for _ in range(3)]
        forker = threading.Thread(target=fork)
        for thread in (*others, forker):
            thread.start()
        forker.join()
        gate.set()
    """,
        PYTHONWARNINGS="ignore::DeprecationWarning",
    ) == ["in the child", "True"]


def test_uninstall_takes_it_back():
    """The methods are CPython's again; a thread that is virtual can still be joined."""
    assert run_virtual("""
        import plait
        gate = threading.Event()
        thread = threading.Thread(target=gate.wait)
        thread.start()
        names = [name for name in plait.patch.status() if name.startswith("threading.Thread.")]
        print(all(plait.patch.status()[name] for name in names), len(names) >= 2)
        gate.set()
        thread.join()
        plait.patch.uninstall()
        print(threading.Thread.start.__module__, threading.Thread.join.__module__)
        thread.join()
        real = threading.Thread(target=lambda: print(is_virtual()))
        real.start()
        real.join()
    """) == ["True True", "threading threading", "False"]


def test_a_thread_starts_once():
    """Who starts one again, which may run yet or has ended, hears what `threading` says."""
    assert (
        run_virtual("""
        gate = threading.Event()
        thread = threading.Thread(target=gate.wait)
        thread.start()
        for end in (gate.set, thread.join, int):
            try:
                thread.start()
            except RuntimeError as error:
                print(error)
            end()
    """)
        == ["threads can only be started once"] * 3
    )
