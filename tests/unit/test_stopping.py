"""When a child acts on the note that its worker left."""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Iterator

import pytest

from pq_core.errors import TaskTimeout
from pq_core.types import ClaimedTask
from pq_core.worker.shared import Place, StopReason
from pq_core.worker.stopping import Stopper


@pytest.fixture
def place() -> Iterator[Place]:
    place = Place(tail=0)
    yield place
    place.close()


@pytest.fixture
def task() -> ClaimedTask:
    values = {field.name: None for field in dataclasses.fields(ClaimedTask)}
    return ClaimedTask(**{**values, "id": 7, "fence": 3, "options": {}})  # type: ignore[arg-type]


def test_a_stop_waits_for_what_must_not_be_left_half_done(place: Place, task: ClaimedTask) -> None:
    stopper = Stopper(place, task)
    stopper.arm(task)
    done = []

    def close() -> None:
        with stopper.held():
            place.stop(task.id, task.fence, StopReason.TIMEOUT)
            stopper(signal.SIGTERM, None)
            assert not stopper.is_told()  # another thread leaves its statements alone, too
            done.append("all of it")

    with pytest.raises(TaskTimeout):
        close()
    assert done == ["all of it"]
    stopper(signal.SIGTERM, None)  # it has been acted on


def test_a_stop_that_is_not_for_this_run_is_left(place: Place, task: ClaimedTask) -> None:
    stopper = Stopper(place, task)
    place.stop(task.id, task.fence - 1, StopReason.TIMEOUT)
    stopper.arm(task)
    with stopper.held():
        stopper(signal.SIGTERM, None)


def test_an_error_of_what_is_held_is_not_replaced(place: Place, task: ClaimedTask) -> None:
    stopper = Stopper(place, task)
    stopper.arm(task)

    def close() -> None:
        with stopper.held():
            place.stop(task.id, task.fence, StopReason.TIMEOUT)
            raise ValueError("its own")

    with pytest.raises(ValueError, match="its own"):
        close()


@pytest.mark.parametrize(
    ("given", "own", "seconds"), [(5.0, None, 2.0), (1.0, None, 0.5), (60.0, 0.5, 0.25), (1.0, 9, 2.0)]
)
def test_a_stop_is_raised_before_the_process_is_killed(
    place: Place, task: ClaimedTask, given: float, own: float | None, seconds: float
) -> None:
    options = {} if own is None else {"grace": own}
    assert Stopper(place, dataclasses.replace(task, options=options), given).patience() == seconds
