"""decimal: what a child does to its arithmetic stays in the child."""

from __future__ import annotations

import contextvars
import decimal

from support import run_in_vthread, run_program

from plait import ThreadGroup, VirtualThreadPoolExecutor, offload


def change():
    """The precision found, and another one set."""
    before = decimal.getcontext().prec
    decimal.getcontext().prec = 3
    return before


def test_changes_do_not_flow_back():
    """A child begins with its spawner's precision, and its own is nobody else's."""

    def body():
        decimal.getcontext().prec = 20
        with ThreadGroup() as group:
            children = [group.spawn(change) for _ in range(3)]
        assert [child.result() for child in children] == [20] * 3
        assert offload(change) == 20
        with VirtualThreadPoolExecutor() as pool:
            assert pool.submit(change).result() == 20
        assert decimal.getcontext().prec == 20

    run_in_vthread(body)


def test_spawner_without_arithmetic_of_its_own():
    """Then a child makes its own when it needs it."""

    def body():
        with ThreadGroup() as group:
            assert group.spawn(change).result() == decimal.DefaultContext.prec
        assert decimal.getcontext().prec == decimal.DefaultContext.prec

    contextvars.Context().run(body)


def test_decimal_imported_later():
    """A program that imports it after the first spawn is no different; uninstalled, a spawn is CPython's copy again."""
    run_program("""
        import sys
        from plait import ThreadGroup, patch
        with ThreadGroup() as group:
            group.spawn(int)
        assert "decimal" not in sys.modules
        import decimal
        decimal.getcontext().prec = 20
        def change():
            decimal.getcontext().prec = 3
        with ThreadGroup() as group:
            group.spawn(change)
        assert decimal.getcontext().prec == 20
        status = patch.status()
        assert any(status[f"{module}.getcontext"].is_patched for module in ("decimal", "_pydecimal"))
        patch.uninstall()
        with ThreadGroup() as group:
            group.spawn(change)
        assert decimal.getcontext().prec == 3
        """)


def test_decimal_without_its_part_in_c():
    """It is the module in Python then, under another name; and where there are both, both are copied."""
    run_program("""
        import sys
        from plait import ThreadGroup, patch
        sys.modules["_decimal"] = None
        import decimal
        del sys.modules["_decimal"]
        del sys.modules["decimal"]
        with ThreadGroup() as group:
            group.spawn(int)
        both = [sys.modules["_pydecimal"]]
        try:
            import _decimal, decimal
            both.append(decimal)
        except ImportError:
            pass
        def change():
            for module in both:
                assert module.getcontext().prec == 20
                module.getcontext().prec = 3
        for module in both:
            module.getcontext().prec = 20
        with ThreadGroup() as group:
            group.spawn(change)
        assert [module.getcontext().prec for module in both] == [20] * len(both)
        """)
