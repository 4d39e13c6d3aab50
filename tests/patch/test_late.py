"""Leaves of modules that come later: the import system is what it was, for whoever looks at it or uses it otherwise."""

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
            return connection._recv_bytes in _registry._beneath
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
            return leaf, found in plait.patch._registry._beneath
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
            return [method in plait.patch._registry._beneath for method in methods]
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
