"""No leaf is forgotten: each that is patched is made to wait in the tests of all, or it is said why it is not."""

import pytest
from patch.helpers import wait_parked, wait_until
from patch.rare_leaves import LEAVES, NEVER, WAITS

import plait
from plait import ThreadGroup


def test_every_leaf_waits_or_has_a_reason():
    """What `status()` names is in one of the two tables, and in one alone."""
    plait.patch.install()
    names = {name for name in plait.patch.status() if not name.startswith("virtual ")}
    assert names <= WAITS.keys() | NEVER.keys()
    assert not WAITS.keys() & NEVER.keys()
    assert set(WAITS.values()) <= LEAVES.keys()


@pytest.mark.parametrize("name", WAITS)
def test_the_wait_is_in_this_leaf(name):
    """The wait that the table names for a leaf is one in it: its count of parks rises."""
    plait.patch.install()
    if name not in plait.patch.status():
        pytest.skip("no leaf of this version")
    with ThreadGroup() as group, LEAVES[WAITS[name]](group) as sitting:
        before = plait.patch.status()[name].parks  # here: a module is patched when it is imported
        sitter = group.spawn(sitting.block)
        wait_parked(sitter)
        if sitting.release is None:
            sitter.cancel()
        else:
            sitting.release()
        wait_until(sitter.done)
    if before is not None:
        assert plait.patch.status()[name].parks > before
