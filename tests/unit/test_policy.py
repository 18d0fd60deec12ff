from __future__ import annotations

import os
import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pq_core.errors import Retry
from pq_core.policy import Transition as T
from pq_core.policy import (
    decide,
    delay,
    describe_exit,
    describe_memory,
    describe_signal,
    describe_timeout,
    retryable,
)
from pq_core.types import Backoff, Outcome, TaskOptions, TaskStatus

FAILURES = [Outcome.RAISED, Outcome.TIMED_OUT, Outcome.OUT_OF_MEMORY, Outcome.CRASHED]
EVEN = Backoff(base=2, factor=2, max=600, jitter=0)

backoffs = st.builds(
    Backoff,
    base=st.floats(0, 1e6),
    factor=st.floats(1, 1e6),
    max=st.floats(0, 1e9),
    jitter=st.floats(0, 1),
)
draws = st.floats(0, 1, exclude_max=True)


def decided(
    outcome: Outcome,
    *,
    number: int = 1,
    max_attempts: int = 3,
    retryable: bool = True,
    after: float | None = None,
) -> T:
    return decide(
        outcome,
        number=number,
        max_attempts=max_attempts,
        retryable=retryable,
        backoff=EVEN,
        after=after,
        error="why",
        random=lambda: 0.5,
    )


def test_success_completes_and_stores_no_error() -> None:
    assert decided(Outcome.SUCCEEDED) == T(status=TaskStatus.COMPLETED, outcome=Outcome.SUCCEEDED)


@pytest.mark.parametrize("outcome", FAILURES)
def test_failure_with_attempts_left_runs_again_after_its_backoff(outcome: Outcome) -> None:
    assert decided(outcome, number=2) == T(status=TaskStatus.PENDING, outcome=outcome, delay=4.0, error="why")


@pytest.mark.parametrize("outcome", FAILURES)
def test_last_attempt_fails(outcome: Outcome) -> None:
    assert decided(outcome, number=3) == T(status=TaskStatus.FAILED, outcome=outcome, error="why")


@pytest.mark.parametrize("outcome", FAILURES)
def test_what_is_not_retryable_fails_at_once(outcome: Outcome) -> None:
    assert decided(outcome, retryable=False).status is TaskStatus.FAILED


def test_retry_after_replaces_the_backoff_but_not_the_limit() -> None:
    assert decided(Outcome.RAISED, after=0).delay == 0
    assert decided(Outcome.RAISED, after=90).delay == 90
    assert decided(Outcome.RAISED, number=3, after=90).status is TaskStatus.FAILED


def test_cancelled_stays_cancelled() -> None:
    assert decided(Outcome.CANCELLED).status is TaskStatus.CANCELLED


@pytest.mark.parametrize(
    ("outcome", "after", "wait"),
    [
        (Outcome.SNOOZED, 30.0, 30.0),
        (Outcome.RELEASED, 10.0, 10.0),
        (Outcome.RELEASED, None, 0.0),
        (Outcome.INTERRUPTED, 30.0, 0.0),
    ],
)
def test_what_is_no_failure_runs_again_uncounted(outcome: Outcome, after: float | None, wait: float) -> None:
    # Even with the last attempt gone and nothing retryable.
    transition = decided(outcome, number=3, retryable=False, after=after)

    assert transition == T(status=TaskStatus.PENDING, outcome=outcome, counted=False, delay=wait, error="why")


def test_lost_is_the_rescuers_to_decide() -> None:
    with pytest.raises(ValueError, match="rescuer"):
        decided(Outcome.LOST)


@given(outcome=st.sampled_from([o for o in Outcome if o is not Outcome.LOST]), number=st.integers(1, 50), left=draws)
def test_a_delay_goes_with_pending_alone(outcome: Outcome, number: int, left: float) -> None:
    transition = decided(outcome, number=number, max_attempts=25, after=left)

    assert (transition.delay is not None) == (transition.status is TaskStatus.PENDING)
    assert transition.counted or transition.status is TaskStatus.PENDING


@given(backoff=backoffs, failures=st.integers(1, 10_000), drawn=draws)
def test_delay_stays_in_its_bounds(backoff: Backoff, failures: int, drawn: float) -> None:
    assert 0 <= delay(backoff, failures, lambda: drawn) <= backoff.max


@given(backoff=backoffs, failures=st.integers(1, 10_000))
def test_delay_without_jitter_never_shrinks(backoff: Backoff, failures: int) -> None:
    even = Backoff(base=backoff.base, factor=backoff.factor, max=backoff.max, jitter=0)

    assert delay(even, failures, lambda: 0.9) <= delay(even, failures + 1, lambda: 0.1)


@given(backoff=backoffs, failures=st.integers(1, 10_000), drawn=draws)
def test_jitter_moves_a_delay_by_its_share_at_most(backoff: Backoff, failures: int, drawn: float) -> None:
    even = delay(Backoff(base=backoff.base, factor=backoff.factor, max=backoff.max, jitter=0), failures, lambda: 0.0)

    wait = delay(backoff, failures, lambda: drawn)

    assert even * (1 - backoff.jitter) * (1 - 1e-9) <= wait <= even * (1 + backoff.jitter) * (1 + 1e-9)


def test_ten_thousand_failures_do_not_overflow() -> None:
    assert delay(Backoff(base=2, factor=2, max=600, jitter=0), 10_000, lambda: 0.5) == 600
    assert delay(Backoff(base=0, factor=9, max=600, jitter=0), 10_000, lambda: 0.5) == 0


def test_jitter_spreads_those_who_reached_the_ceiling() -> None:
    at_ceiling = Backoff(base=600, factor=2, max=600, jitter=0.5)

    waits = {delay(at_ceiling, 5, iter([drawn / 10]).__next__) for drawn in range(10)}

    assert len(waits) == 10
    assert min(waits) == 300


@pytest.mark.parametrize(
    "error", [ValueError(), SystemExit(3), KeyboardInterrupt(), BaseExceptionGroup("", [OSError()])]
)
def test_everything_is_retryable_by_default(error: BaseException) -> None:
    assert retryable(error, TaskOptions())


def test_retry_on_names_what_is_retried_subclasses_included() -> None:
    options = TaskOptions(retry_on=(OSError,))

    assert retryable(ConnectionError(), options)
    assert not retryable(ValueError(), options)


def test_no_retry_on_wins() -> None:
    options = TaskOptions(retry_on=(OSError,), no_retry_on=(ConnectionError,))

    assert retryable(TimeoutError(), options)
    assert not retryable(ConnectionError(), options)
    assert not retryable(ValueError(), TaskOptions(retry_on=()))


def test_a_task_that_raises_retry_means_it() -> None:
    assert retryable(Retry(), TaskOptions(retry_on=(OSError,), no_retry_on=(Exception,)))


def wait_status(end: object) -> int:
    pid = os.posix_spawn(
        "/bin/sh", ["sh", "-c", f"ulimit -c 0; {end}"], dict(os.environ), setsigdef=[signal.SIGSEGV, signal.SIGKILL]
    )
    return os.waitpid(pid, 0)[1]


@pytest.mark.parametrize(
    ("end", "words"),
    [
        ("exit 3", "exited with status 3"),
        ("exit 0", "exited with status 0"),
        ("kill -SEGV $$", "killed by signal 11 (SIGSEGV)"),
        ("kill -KILL $$", "killed by signal 9 (SIGKILL)"),
    ],
)
def test_real_exits_in_words(end: str, words: str) -> None:
    assert describe_exit(wait_status(end)) == words


def test_signals_without_a_name_stay_numbers() -> None:
    assert describe_signal(signal.SIGRTMIN + 3) == f"signal {signal.SIGRTMIN + 3}"


def test_limits_in_words() -> None:
    assert describe_memory(limit=512 * 2**20, peak=511 * 2**20) == "memory limit 512 MiB reached at 511 MiB"
    assert describe_memory(limit=1536 * 2**10, peak=None) == "memory limit 1.5 MiB reached"
    assert describe_memory(limit=None, peak=20 * 2**10) == "out of memory at 20 KiB"
    assert describe_memory(limit=None, peak=5) == "out of memory at 5 B"
    assert describe_timeout(30) == "timed out after 30 s"
    assert describe_timeout(0.5) == "timed out after 0.5 s"
