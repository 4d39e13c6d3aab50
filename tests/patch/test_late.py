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
