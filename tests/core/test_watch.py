"""The watch: what it measures with. tests/model has the protocol, test_carriers.py what comes of it."""

from __future__ import annotations

from plait._core._poller import open_poller
from plait._native import kernel_ident
from plait._native._native import processor_time


def test_a_nap_ends_with_its_time_or_a_wake():
    """Nothing is at hand after a nap that nobody has disturbed; a wake before it ends it at once."""
    poller = open_poller()
    try:
        assert poller.nap(0.0).size() == 0
        assert poller.nap(0.0002).size() == 0
        poller.wake()
        assert poller.nap(0.9).size() == 1
        assert poller.nap(0.0002).size() == 0
    finally:
        poller.close()


def test_processor_time():
    """It grows while the kernel thread computes; nobody knows that of a kernel thread that is none."""
    mine = kernel_ident()
    before = processor_time(mine)
    while not processor_time(mine) > before:
        pass
    assert processor_time(0) == 0.0
