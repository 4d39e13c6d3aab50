"""How values of the program's are shown in messages: shortened, and whatever their own `repr` raises."""

from __future__ import annotations

import reprlib

_reprs = reprlib.Repr()
_reprs.maxstring = _reprs.maxother = 200

shortened = _reprs.repr
