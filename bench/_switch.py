"""The yardstick of the switch benchmark: the extension module in ``_switch.c``.

There is no version of it in Python: it is there to say what a switch costs with next to no Python around it.
"""

from __future__ import annotations

import importlib.util
from importlib.machinery import ExtensionFileLoader
from typing import Any

from bench._programs import extension


def prepare() -> None:
    """Compile it. Raises MissingError where that cannot be done."""
    extension("_switch.c")


def load() -> Any:
    """Import it."""
    loader = ExtensionFileLoader("_switch", str(extension("_switch.c")))
    spec = importlib.util.spec_from_loader("_switch", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module
