"""Leaves of modules that come later: the import system is what it was, for whoever looks at it or uses it otherwise."""

import pytest
from patch.helpers import run_python


def test_spec_that_others_find_is_as_good_as_the_real_one():
    """What they ask of its loader is the real loader's answer."""
    code = """
        import copy, importlib.machinery, importlib.util, inspect, plait
        name = "multiprocessing.connection"
        real = importlib.util.find_spec(name).loader
        plait.patch.install()
        loader = importlib.util.find_spec(name).loader
        assert loader is not real
        assert (loader.path, loader.name, loader.is_package(name)) == (real.path, name, False)
        assert loader.get_code(name) == real.get_code(name)
        assert loader.get_source(name) == real.get_source(name)
        assert not hasattr(loader, "load_nothing") and not hasattr(copy.copy(loader), "load_nothing")
        import multiprocessing.connection as module
        assert type(module.__loader__) is type(module.__spec__.loader) is importlib.machinery.SourceFileLoader
        print(plait.patch.status()[f"{name}.Connection._recv_bytes"])
    """
    assert run_python(code).startswith("multiprocessing.connection.Connection._recv_bytes: patched by ")


def test_copy_of_a_module_is_left_alone():
    """What is made of its spec, by `runpy` or by hand, is as it is written; the module itself is patched when it comes."""
    code = """
        import importlib.util, runpy, sys, plait
        from plait.patch import _registry
        def is_ours(connection):
            return bool(_registry._ways.get(connection._recv_bytes))
        plait.patch.install()
        name, leaf = "multiprocessing.connection", "multiprocessing.connection.Connection._recv_bytes"
        print(is_ours(runpy.run_module(name)["Connection"]))
        spec = importlib.util.find_spec(name)
        copy = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(copy)
        print(is_ours(copy.Connection), plait.patch.status()[leaf].is_patched, name in sys.modules)
        import multiprocessing.connection as module
        print(is_ours(module.Connection), plait.patch.status()[leaf].is_patched)
        plait.patch.uninstall()
        print(is_ours(module.Connection), is_ours(copy.Connection))
    """
    assert run_python(code).splitlines() == [
        "False",
        "False True False",
        "True True",
        "False False",
    ]


def test_finders_of_others_without_find_spec():
    """They are passed over, as the import system does."""
    code = """
        import sys, plait
        class Finder:
            def find_module(self, name, path=None):  # all that was asked for before 3.12
                return None
        sys.meta_path.insert(0, Finder())
        plait.patch.install()
        import multiprocessing.connection
        print(plait.patch.status()["multiprocessing.connection.Connection._recv_bytes"].is_patched)
    """
    assert run_python(code) == "True\n"


def test_finder_in_front_that_finds_the_module_itself():
    """Nobody tells us of the module: it is not said to be patched, and the next `install` patches it."""
    code = """
        import sys, plait
        from importlib.machinery import PathFinder
        class Finder:
            def find_spec(self, name, path=None, target=None):
                return PathFinder.find_spec(name, path, target) if name == "gzip" else None
        plait.patch.install()
        sys.meta_path.insert(0, Finder())
        def picture():
            leaf = plait.patch.status()["gzip.GzipFile.close"].is_patched
            found = sys.modules["gzip"].GzipFile.close if "gzip" in sys.modules else None
            return leaf, bool(plait.patch._registry._ways.get(found))
        print(*picture())
        import gzip
        print(*picture(), gzip.GzipFile.close.__qualname__)
        plait.patch.install()
        print(*picture(), gzip.GzipFile.close.__qualname__)
        print(any(getattr(finder, "_module", "") == "gzip" for finder in sys.meta_path))
        plait.patch.uninstall()
        print(*picture())
    """
    assert run_python(code).splitlines() == [
        "True False",
        "False False GzipFile.close",
        "True True GzipFile.close",
        "False",
        "False False",
    ]


def test_module_that_is_loaded_again():
    """Its new class is not said to be patched; `install` patches that, too, and `uninstall` takes both back."""
    code = """
        import importlib, io, queue, threading, zipfile, plait
        plait.patch.install()
        leaves = ["queue.Queue.get", "queue.Queue.join", "zipfile.ZipFile.close", "zipfile._ZipWriteFile.close"]
        def ours(*methods):
            return [bool(plait.patch._registry._ways.get(method)) for method in methods]
        def picture():
            return [plait.patch.status()[leaf].is_patched for leaf in leaves]
        old = queue.Queue, zipfile.ZipFile
        print(picture())
        importlib.reload(queue)
        importlib.reload(zipfile)
        print(picture())
        for _ in range(2):
            plait.patch.install()
            print(picture(), ours(queue.Queue.get, zipfile.ZipFile.close, old[0].get, old[1].close))
        file = io.BytesIO()
        with plait.ThreadGroup() as group:
            numbers = queue.Queue()
            taker = group.spawn(numbers.get)
            group.spawn(numbers.put, 1)
            with zipfile.ZipFile(file, "w") as archive, archive.open("name", "w") as part:
                part.write(b"x")
        print(taker.result(), zipfile.ZipFile(file).read("name"))
        plait.patch.uninstall()
        print(picture(), ours(queue.Queue.get, zipfile.ZipFile.close, old[0].get, old[1].close))
    """
    all_of_them, none = [True] * 4, [False] * 4
    assert run_python(code).splitlines() == [
        f"{all_of_them}",
        f"{none}",
        f"{all_of_them} {all_of_them}",
        f"{all_of_them} {all_of_them}",
        "1 b'x'",
        f"{none} {none}",
    ]


UNDER_WAY = """
    import signal, sys, threading, time, plait
    from importlib.machinery import PathFinder
    def is_watched():
        return any(getattr(finder, "_module", "") == "gzip" for finder in sys.meta_path)
    def until_watched():
        while not is_watched():
            time.sleep(0.001)
    class Slow:
        "Finds gzip, with something to be done while it is found or loaded."
        def __init__(self, in_find=None, before=None, after=None):
            self.in_find, self.before, self.after = in_find, before, after
        def find_spec(self, name, path=None, target=None):
            if name != "gzip":
                return None
            sys.meta_path.remove(self)
            if self.in_find:
                self.in_find()
            spec = PathFinder.find_spec(name, path, target)
            load = spec.loader.exec_module
            def exec_module(module):
                if self.before:
                    self.before()
                load(module)
                if self.after:
                    self.after()
            spec.loader.exec_module = exec_module
            return spec
    def picture():
        import gzip
        leaf = plait.patch.status()["gzip.GzipFile.close"].is_patched
        return leaf, bool(plait.patch._registry._ways.get(gzip.GzipFile.close)), type(gzip.__spec__).__name__, is_watched()
"""


@pytest.mark.parametrize("when", ["in_find", "before", "after"])
def test_import_by_another_thread_that_is_under_way(when):
    """The first spawn comes while another thread finds or loads the module: it waits for that, and patches it."""
    code = f"""{UNDER_WAY}
    is_under_way = threading.Event()
    def wait():
        is_under_way.set()
        until_watched()
    sys.meta_path.insert(0, Slow({when}=wait))
    importer = threading.Thread(target=__import__, args=("gzip",))
    importer.start()
    is_under_way.wait()
    with plait.ThreadGroup() as group:
        group.spawn(pow, 2, 3)
    importer.join()
    print(picture())
    """
    assert run_python(code) == "(True, True, 'ModuleSpec', False)\n"


@pytest.mark.parametrize("when", ["in_find", "before", "after"])
def test_import_by_the_installing_thread_that_is_under_way(when):
    """The first spawn comes in the middle of the import, as in a signal handler: the module is patched when it has come."""
    code = f"""{UNDER_WAY}
    def spawn():
        with plait.ThreadGroup() as group:
            group.spawn(pow, 2, 3)
        assert plait.patch.status()["gzip.GzipFile.close"].is_patched  # it will be
    sys.meta_path.insert(0, Slow({when}=spawn))
    import gzip
    print(picture())
    """
    assert run_python(code) == "(True, True, 'ModuleSpec', False)\n"


def test_import_that_is_under_way_and_fails():
    """It is waited for again."""
    code = f"""{UNDER_WAY}
    def fail():
        plait.patch.install()
        raise KeyError
    sys.meta_path.insert(0, Slow(after=fail))
    try:
        import gzip
    except KeyError:
        print("gzip" in sys.modules, is_watched())
    print(picture())
    """
    assert run_python(code) == "False True\n(True, True, 'ModuleSpec', False)\n"


@pytest.mark.parametrize("module", ["tarfile", "multiprocessing.managers"])
@pytest.mark.parametrize("is_made_before", [True, False])
def test_module_that_is_loaded_when_it_is_used(module, is_made_before):
    """`importlib.util.LazyLoader`: neither an install nor the status loads it, and its use patches it."""
    leaf = {"tarfile": "TarFile.close", "multiprocessing.managers": "BaseProxy._callmethod"}[module]
    code = f"""
        import importlib.util, sys, plait
        name = {module!r}
        def lazy_import():
            spec = importlib.util.find_spec(name)
            spec.loader = loader = importlib.util.LazyLoader(spec.loader)
            module = importlib.util.module_from_spec(spec)
            sys.modules[name] = module
            loader.exec_module(module)
            return module
        def is_lazy():
            return type(module) is importlib.util._LazyModule
        if {is_made_before}:
            module = lazy_import()
        for _ in range(2):
            plait.patch.install()
        if not {is_made_before}:
            module = lazy_import()
        with plait.ThreadGroup() as group:
            group.spawn(pow, 2, 3)
        print(plait.patch.status()[f"{{name}}.{leaf}"].is_patched, is_lazy())
        print(bool(plait.patch._registry._ways.get(module.{leaf})), is_lazy(), type(module.__loader__).__name__)
        print(plait.patch.status()[f"{{name}}.{leaf}"].is_patched)
    """
    assert run_python(code).splitlines() == ["True True", "True False SourceFileLoader", "True"]


@pytest.mark.parametrize("family", ["_time", "_decimals"])
def test_signal_handler_in_the_middle_of_an_install(family):
    """It may import such a module, ask for the status, and install itself."""
    code = f"""{UNDER_WAY}
    from plait.patch import {family} as family
    def handle(*args):
        import gzip
        plait.patch.status()
        with plait.ThreadGroup() as group:
            group.spawn(pow, 2, 3)
        plait.patch.install()
    signal.signal(signal.SIGUSR1, handle)
    make = family.leaves
    def leaves():
        made = make()
        signal.raise_signal(signal.SIGUSR1)
        return made
    family.leaves = leaves
    signal.signal(signal.SIGUSR1, lambda *args: (signal.signal(signal.SIGUSR1, signal.SIG_IGN), handle()))
    plait.patch.install()
    print(picture(), all(plait.patch.status().values()))
    plait.patch.uninstall()
    print(picture()[:2], any(plait.patch.status().values()))
    """
    assert run_python(code) == "(True, True, 'ModuleSpec', False) True\n(False, False) False\n"
