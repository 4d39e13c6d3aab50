"""How values of the program's are shown in messages: whatever their own `repr` or `str` raises, and shortened."""

from __future__ import annotations

import reprlib

_reprs = reprlib.Repr()
_reprs.maxstring = _reprs.maxother = 200

shortened = _reprs.repr


def stated(value: object) -> str:
    """What a message says `value` is, as an f-string does; of what cannot be said, its class."""
    try:
        return f"{value}"
    except Exception:  # noqa: BLE001 - its own
        return f"{type(value).__name__} (which has no str)"
