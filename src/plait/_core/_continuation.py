"""The only door to stack switching: greenlet, through `_native/stack.c`.

A `Stack` is made by its carrier's root and stays with that kernel thread for ever. It is not tied to one virtual
thread: when a thread has ended, the next unstarted one is mounted on the same stack, without a switch. Making a stack
costs ten times as much as a switch, so idle ones are kept.

`switch_to(stack)` may be called only with the gate closed (`WaitWord.arm` or `hold`), so that nothing which happens to
run between the decision and the switch can park over it. A stack that ends goes to whom it has named by `end_into`, or
to the root. To end a wait of a thread with an exception, never throw into
its stack: leave the reason where the thread looks when it comes back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from plait._native import Stack, end_into, switch_to

if TYPE_CHECKING:
    from types import FrameType

__all__ = ("Stack", "end_into", "frame_of", "switch_to")


def frame_of(stack: Stack) -> FrameType | None:
    """The innermost frame on `stack`, if that is suspended. On its carrier alone, or it may go on at any moment."""
    return stack.greenlet.gr_frame  # type: ignore[no-any-return]
