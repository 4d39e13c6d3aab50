"""How a group takes failures: what `on_error` may be and answer, and what messages say of exceptions of any class."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal

from plait._core import Verdict
from plait._futures import Future

if TYPE_CHECKING:
    from plait._groups import ThreadGroup

OnError = Literal["cancel", "collect"] | Callable[[Future[Any], Exception], Literal["cancel", "ignore", "restart"]]

_VERDICTS: dict[str, Verdict] = {verdict.value: verdict for verdict in Verdict}


def check_on_error(on_error: OnError) -> OnError:
    """`on_error`, if a group can be given it."""
    if on_error not in ("cancel", "collect") and not callable(on_error):
        raise TypeError(f'on_error must be "cancel", "collect" or a function (future, exception), not {on_error!r}')
    return on_error


def verdict_of(answer: object, group: ThreadGroup) -> Verdict:
    """What the function that was given as `on_error` to `group` has answered."""
    if not isinstance(answer, str) or answer not in _VERDICTS:
        raise ValueError(
            f'the on_error function of {group!r} must answer "cancel", "ignore" or "restart", not {answer!r}'
        )
    return _VERDICTS[answer]


def note_failures(error: BaseException, group: ThreadGroup, failures: list[BaseException]) -> None:
    """Say on `error`, which leaves instead, what else has failed in `group`; whatever the classes of them all do."""
    with suppress(Exception):
        error.add_note(f"{group!r} also failed with " + ", ".join(map(_shown, failures)))


def _shown(error: BaseException) -> str:
    try:
        return repr(error)
    except Exception:  # noqa: BLE001 - its own
        return f"{type(error).__name__} (which has no repr)"


def class_of(error: BaseException) -> str:
    """The name of its class."""
    try:
        return type(error).__name__
    except BaseException:  # noqa: BLE001 - its metaclass's
        return "an exception"
