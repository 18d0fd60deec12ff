"""What Postgres' jsonb gives back is what was given to it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pq_core import payload

Through = Callable[[str], str]


@pytest.fixture
def through_jsonb(database: str) -> Iterator[Through]:
    with psycopg.connect(database, autocommit=True) as connection:

        def through(text: str) -> str:
            row = connection.execute("SELECT (%s::text::jsonb)::text", (text,)).fetchone()
            assert row is not None
            return str(row[0])

        yield through


def alike(left: Any, right: Any) -> bool:
    if type(left) is not type(right) or left != right:
        return False
    if isinstance(left, dict):
        return all(alike(value, right[key]) for key, value in left.items())
    if isinstance(left, (list, tuple)):
        return all(map(alike, left, right))
    return not isinstance(left, float) or math.copysign(1, left) == math.copysign(1, right)


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=30)
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**4096), 2**4096)
    | st.floats(allow_nan=False)
    | st.floats(allow_nan=False).map(lambda number: float(f"{number:.0e}"))
    | texts
    | st.decimals(allow_nan=False)
    | st.binary(max_size=20)
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(texts | st.just("$pq"), inner, max_size=4)
        | st.dictionaries(st.integers() | st.booleans() | texts, inner, max_size=4)
    ),
    max_leaves=10,
)


@given(value=values)
@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_a_value_survives_jsonb(value: Any, through_jsonb: Through) -> None:
    text = through_jsonb(payload.dumps(payload.encode((value,), {"keyword": value})))
    args, kwargs = payload.decode(text)
    assert alike(args, (value,))
    assert alike(kwargs, {"keyword": value})


@pytest.mark.parametrize(
    "value",
    [
        *(0.0, -0.0, 1.0, 1e15, 1e16, 1e22, -1.5e300, 5e-324, 2.2250738585072014e-308, 1.7976931348623157e308),
        *(math.inf, -math.inf, 0.1 + 0.2, 1e-7, 123456789012345680.0),
        *(2**63, -(2**63) - 1, 10**600, 2**2048, 2**20_000),
    ],
    ids=lambda value: f"{type(value).__name__} of {value.bit_length()} bits" if type(value) is int else repr(value),
)
def test_a_number_at_the_edges_survives_jsonb(value: float, through_jsonb: Through) -> None:
    (again,), _ = payload.decode(through_jsonb(payload.dumps(payload.encode((value,), {}))))
    assert alike(again, value)


def test_what_postgres_writes_itself_is_refined_by_the_signature(database: str) -> None:
    def task(
        moment: datetime, day: date, hour: time, pause: timedelta, id: UUID, price: Decimal, blob: bytes, many: set[int]
    ) -> None: ...

    with psycopg.connect(database) as connection:
        row = connection.execute(
            """
            SELECT jsonb_build_object('args', jsonb_build_array(
                timestamptz '2026-03-01 09:00:00.25+01', date '2026-03-01', time '09:30',
                interval '1 day 02:03:04.5', uuid '6f2f7b52-34c3-4f2c-9c39-000000000001', 1.10::numeric,
                bytea '\\x00ff', array[1, 2]))::text
            """
        ).fetchone()
    assert row is not None
    args, kwargs = payload.decode(row[0], signature=payload.signature_of(task))
    assert args == (
        datetime(2026, 3, 1, 8, 0, 0, 250_000, UTC),
        date(2026, 3, 1),
        time(9, 30),
        timedelta(days=1, hours=2, minutes=3, seconds=4.5),
        UUID("6f2f7b52-34c3-4f2c-9c39-000000000001"),
        Decimal("1.1"),
        b"\x00\xff",
        {1, 2},
    )
    assert kwargs == {}


def test_a_stored_duration_can_be_cast_to_an_interval(database: str) -> None:
    durations = [timedelta(seconds=-1), timedelta(days=2, microseconds=3), timedelta(hours=30)]
    with psycopg.connect(database) as connection:
        for duration in durations:
            stored = payload.dumps(payload.encode_result(duration))
            row = connection.execute("SELECT (%s::jsonb ->> 'value')::interval", (stored,)).fetchone()
            assert row == (duration,)
