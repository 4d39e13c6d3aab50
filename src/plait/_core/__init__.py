"""Mechanism: how threads run, wait, wake and are cancelled. Nothing here decides what a failure means.

From the bottom up:

    _atomics _clock            the only shared cells, locks and time
    _timers _continuation _poller _idle    deadlines; stacks; the kernel's events; sleep and wake of a carrier
    _misuse _tree _cancel      the traps of scopes; their tree; what a cancel does at a cancel point
    _parking                   park and unpark, one winner a wait
    _slots _placement          how many may be at work; the carrier for what platform threads spawn
    _platform _lot             platform threads as parkers; waiting for objects in memory
    _container _vthread        who owns which threads; the scheduled unit
    _reactor _operations       who waits for which descriptor; what stream sockets do
    _carrier _offload          the kernel threads that run virtual threads, and those that run calls
    _ending _runtime           what is done last when the process ends; builds the parts
    _deadline _sleep _stacks   scopes that time cancels; waits that time ends; what other threads are doing
    _lookout                   whose slot may be used by whom, where threads wait for each other

Everything above uses only the names below.
"""

from plait._core._atomics import Counter, Flag, Lock
from plait._core._cancel import (
    be_patient,
    check_entry,
    check_first,
    check_park,
    deliver,
    excuse,
    patiently,
    refuge,
    retract,
)
from plait._core._clock import now
from plait._core._container import Container
from plait._core._deadline import DeadlineScope, end_inside, left_open
from plait._core._lookout import lock_waits
from plait._core._lot import set_told as lot_set_told
from plait._core._lot import wait as lot_wait
from plait._core._lot import wait_shielded as lot_wait_shielded
from plait._core._lot import wake_all as lot_wake_all
from plait._core._lot import wake_one as lot_wake_one
from plait._core._misuse import check_reach
from plait._core._number import check_seconds, real_number, time_number, whole_number
from plait._core._offload import Offload, OffloadJob
from plait._core._operations import (
    await_socket,
    keeping,
    late,
    let_go,
    listens,
    pass_turn,
    recv,
    recv_into,
    send,
    send_rest,
    sendall,
    wait_socket,
)
from plait._core._parking import (
    INTERRUPTED,
    TIMED_OUT,
    WOKEN,
    Parker,
    WaitReason,
    observe_parks,
    park,
    park_shielded,
    resume,
    unobserve_parks,
    unpark_all,
)
from plait._core._platform import PlatformThread, wake_watchers, watched_numbers
from plait._core._poller import BROKEN, READ, URGENT, WRITE
from plait._core._reactor import IN_TURN, Descriptor, wait_descriptor, wait_descriptors
from plait._core._runtime import (
    call_contained,
    call_deaf,
    close_scope,
    current_thread,
    launch,
    leave_all_scopes,
    open_scope,
    runtime,
    start_child,
)
from plait._core._sleep import sleep, slept
from plait._core._slots import Slots, lend_slot
from plait._core._stacks import Snapshot, stack_of_kernel_thread, take_snapshot
from plait._core._tree import (
    GRACE,
    CancelScope,
    Scope,
    exceptions_in,
    grace_of,
    is_cancelled,
    is_under,
    pending,
    pending_now,
    wake_all_under,
    without_cancelled,
)
from plait._core._vthread import (
    CANCELLED,
    FAILED,
    PENDING,
    SUCCEEDED,
    Verdict,
    VirtualThread,
    on_holder_end,
    on_ident_end,
    refuse_coroutine,
)
from plait._core._waiters import Waiter
from plait._native import caller_code, caller_offset, line_at

__all__ = (
    "BROKEN",
    "CANCELLED",
    "FAILED",
    "GRACE",
    "INTERRUPTED",
    "IN_TURN",
    "PENDING",
    "READ",
    "SUCCEEDED",
    "TIMED_OUT",
    "URGENT",
    "WOKEN",
    "WRITE",
    "CancelScope",
    "Container",
    "Counter",
    "DeadlineScope",
    "Descriptor",
    "Flag",
    "Lock",
    "Offload",
    "OffloadJob",
    "Parker",
    "PlatformThread",
    "Scope",
    "Slots",
    "Snapshot",
    "Verdict",
    "VirtualThread",
    "WaitReason",
    "Waiter",
    "await_socket",
    "be_patient",
    "call_contained",
    "call_deaf",
    "caller_code",
    "caller_offset",
    "check_entry",
    "check_first",
    "check_park",
    "check_reach",
    "check_seconds",
    "close_scope",
    "current_thread",
    "deliver",
    "end_inside",
    "exceptions_in",
    "excuse",
    "grace_of",
    "is_cancelled",
    "is_under",
    "keeping",
    "late",
    "launch",
    "leave_all_scopes",
    "left_open",
    "lend_slot",
    "let_go",
    "line_at",
    "listens",
    "lock_waits",
    "lot_set_told",
    "lot_wait",
    "lot_wait_shielded",
    "lot_wake_all",
    "lot_wake_one",
    "now",
    "observe_parks",
    "on_holder_end",
    "on_ident_end",
    "open_scope",
    "park",
    "park_shielded",
    "pass_turn",
    "patiently",
    "pending",
    "pending_now",
    "real_number",
    "recv",
    "recv_into",
    "refuge",
    "refuse_coroutine",
    "resume",
    "retract",
    "runtime",
    "send",
    "send_rest",
    "sendall",
    "sleep",
    "slept",
    "stack_of_kernel_thread",
    "start_child",
    "take_snapshot",
    "time_number",
    "unobserve_parks",
    "unpark_all",
    "wait_descriptor",
    "wait_descriptors",
    "wait_socket",
    "wake_all_under",
    "wake_watchers",
    "watched_numbers",
    "whole_number",
    "without_cancelled",
)
