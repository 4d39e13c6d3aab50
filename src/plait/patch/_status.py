"""What `plait.patch.status()` gives: a record a leaf, and all of them as a table."""

from __future__ import annotations

from dataclasses import dataclass, field

from plait.patch._registry import leaves_by_family

_TITLES = ("leaf", "patched", "parked", "by")


@dataclass(frozen=True, slots=True)
class LeafStatus:
    """A leaf at one moment. True while it is patched; two are equal whatever has parked.

    Attributes:
        name: As people know it.
        file: Where its replacement is written.
        is_patched: Whether it is cooperative now.
        parks: How often calls of it have parked since the process began, on all threads together. None where it is
            built on other leaves, which count for it, or never waits.
    """

    name: str
    file: str
    is_patched: bool
    parks: int | None = field(compare=False)

    def __bool__(self) -> bool:
        return self.is_patched

    def __str__(self) -> str:
        parks = "" if self.parks is None else f", has parked {self.parks} times"
        return f"{self.name}: {'patched' if self.is_patched else 'not patched'} by {self.file}{parks}"


class PatchStatus(dict[str, LeafStatus]):
    """All leaves by name, in the order in which they are put in place. Printed, it is a table."""

    def __str__(self) -> str:
        rows = [
            (leaf.name, "yes" if leaf else "no", "-" if leaf.parks is None else str(leaf.parks), leaf.file)
            for leaf in self.values()
        ]
        if not rows:
            return "nothing is patched, and nothing has been"
        widths = [max(map(len, column)) for column in zip(_TITLES, *rows, strict=True)]
        return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in (_TITLES, *rows))


def current_status() -> PatchStatus:
    """As `plait.patch.status`."""
    return PatchStatus(
        (name, LeafStatus(name, f"{family.replace('.', '/')}.py", is_patched, parks))
        for family, leaves in leaves_by_family().items()
        for name, is_patched, parks in leaves
    )
