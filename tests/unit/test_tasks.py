"""Tasks: what the decorator takes and refuses, how payloads and results are read, how retries wait."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import enum
import pickle
import threading
import types
from collections.abc import Generator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, NotRequired, TypedDict
from uuid import UUID

import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import ConfigurationError, PayloadError
from headrace.tasks import (
    AsyncTask,
    Retry,
    RunContext,
    SyncTask,
    Task,
    collect_tasks,
    current_run,
    entered_run,
    registry,
    task,
)

RUN = RunContext("run_a", "t")


@pytest.fixture(autouse=True)
def _own_registry() -> Generator[None]:
    before = dict(registry)
    yield
    registry.clear()
    registry.update(before)


@dataclasses.dataclass
class Point:
    x: int
    y: int = 0


class Line(msgspec.Struct):
    start: Point
    name: str


class Options(TypedDict):
    depth: int
    strict: NotRequired[bool]


class Foreign:
    pass


class Color(enum.Enum):
    RED = "red"


class Model(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(populate_by_name=True)
    width: Annotated[int, pydantic.Field(gt=0)]
    made: datetime = pydantic.Field(alias="madeAt", default=datetime(2026, 1, 1, tzinfo=UTC))


@task
def at_top(number: int) -> int:
    """Doubles."""
    return number * 2


# Declaring


def test_bare_and_called_def_and_async_def():
    @task
    def one(x: int) -> str:
        return str(x)

    @task(queue="q", retry=Retry(max_attempts=9), isolation="process", max_duration="5m", id="two-of-them")
    async def two(x: int) -> str:
        return str(x)

    assert (type(one), one.id, one.queue, one.retry, one.is_async) == (SyncTask, "one", "task/one", Retry(), False)
    assert (type(two), two.id, two.queue, two.retry.max_attempts) == (AsyncTask, "two-of-them", "q", 9)
    assert (two.isolation, two.max_duration, two.is_async) == ("process", 300.0, True)
    assert one(3) == "3"
    assert asyncio.run(two(4)) == "4"
    assert registry["one"] is one


def test_a_task_is_its_function_to_look_at():
    assert (at_top.__name__, at_top.__doc__, at_top.__wrapped__) == ("at_top", "Doubles.", at_top.fn)  # type: ignore[attr-defined]
    assert repr(at_top) == "<task 'at_top' on 'task/at_top'>"


def test_a_method_of_a_class_has_the_class_in_its_id():
    class Images:
        @task
        @staticmethod
        def resize(x: int) -> int:
            return x

    assert Images.resize.id == "Images.resize"
    assert Images.resize(3) == 3


def test_a_task_without_payload():
    @task
    def nothing() -> str:
        return "done"

    assert (nothing.takes_payload, nothing.payload_type, nothing.arguments(None, RUN)) == (False, type(None), ())
    assert nothing.decode_payload(None) is None
    assert nothing.decode_payload(b"null") is None
    with pytest.raises(PayloadError):
        nothing.decode_payload(b"5")
    assert nothing.encode_payload(None) is None
    with pytest.raises(PayloadError, match="takes no payload"):
        nothing.encode_payload(5)  # type: ignore[arg-type]


def test_a_context_comes_second():
    @task
    def with_context(x: int, run: RunContext) -> int:
        return x

    @task
    def with_option(x: int, verbose: bool = False) -> int:
        return x

    assert with_context.arguments(5, RUN) == (5, RUN)
    assert with_option.arguments(5, RUN) == (5,)


def test_a_default_stands_for_no_payload():
    @task
    def count(to: int | None = 3) -> int:
        return to or 0

    assert count.decode_payload(None) == 3
    assert count.decode_payload(b"null") is None


def test_annotations_may_name_what_comes_later():
    @task
    def early(x: Later) -> Later:  # noqa: F821 - that is the point
        return x

    globals()["Later"] = Point
    try:
        assert early.decode_payload(b'{"x":1}') == Point(1)
    finally:
        del globals()["Later"]


@pytest.mark.parametrize(
    ("define", "told"),
    [
        (lambda: task(lambda a, b: None), "one payload"),
        (lambda: task(_keyword_only), "keyword-only"),
        (lambda: task(_context_first), "payload comes first"),
        (lambda: task(5), "goes on a function"),
        (lambda: task(at_top), "goes on a function"),
        (lambda: task(id="")(_fine), "can't be empty"),
        (lambda: task(isolation="thread")(_fine), "isolation is 'thread'"),
    ],
)
def test_what_can_be_no_task_is_refused_where_it_stands(define: Any, told: str):
    with pytest.raises(ConfigurationError, match=told):
        define()


def _keyword_only(x: int, *, y: int) -> None: ...
def _context_first(run: RunContext) -> None: ...
def _fine(x: int) -> None: ...


def test_two_functions_cannot_have_one_id_but_a_module_may_be_loaded_again():
    @task(id="mine")
    def first(x: int) -> None: ...

    with pytest.raises(ConfigurationError, match="two functions want the task id 'mine'"):

        @task(id="mine")
        def second(x: int) -> None: ...

    again = task(id="mine")(first.fn)
    assert registry["mine"] is again


def test_a_module_is_asked_for_its_tasks():
    module = types.ModuleType("m")
    module.a, module.number = at_top, 5  # type: ignore[attr-defined]
    assert collect_tasks(module) == {"at_top": at_top}


def test_a_task_is_pickled_and_copied_by_name():
    assert pickle.loads(pickle.dumps(at_top)) is at_top
    assert copy.deepcopy({"task": at_top})["task"] is at_top


# Payloads and results


def typed(annotation: Any) -> Task[Any, Any]:
    def fn(x: Any) -> Any:
        return x

    fn.__annotations__ = {"x": annotation, "return": annotation}
    return task(id=f"typed-{id(fn)}")(fn)


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (int, 5),
        (float, 1.5),
        (str, '123 "quoted"\n\u2028'),
        (bytes, b"\x00\xff"),
        (dict[str, list[int]], {"a": [1]}),
        (dict[int, str], {1: "a"}),
        (tuple[int, str], (1, "a")),
        (set[int], {1, 2}),
        (int | None, None),
        (datetime, datetime(2026, 1, 2, 3, 4, 5, 678_000, UTC)),
        (timedelta, timedelta(hours=1, microseconds=5)),
        (UUID, UUID(int=7)),
        (Decimal, Decimal("1.10")),
        (Color, Color.RED),
        (Point, Point(1, 2)),
        (list[Point], [Point(1), Point(2)]),
        (Line, Line(Point(1), "l")),
        (Options, {"depth": 3}),
        (Model, Model(width=3)),
        (list[Model], [Model(width=3)]),
        (Model | Point | None, Model(width=3)),
        (Annotated[int, pydantic.Field(gt=3)], 4),
        (Annotated[int, msgspec.Meta(gt=3)], 4),
        (Any, {"a": [1, None, "x"]}),
    ],
)
def test_values_come_back_as_they_went(annotation: Any, value: Any):
    made = typed(annotation)
    data = made.encode_payload(value)
    assert data is not None
    assert b"\n" not in data
    assert made.decode_payload(data) == value
    output, media_type = made.encode_output(value)
    assert made.decode_output(output, media_type) == value
    wrapped = b'{"json":' + data + b"}"
    assert made.decode_payload(wrapped, "application/super+json") == value


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (int, "5"),
        (Point, {"y": 1}),
        (Options, {"depth": "deep"}),
        (Model, {"width": 0}),
        (Annotated[int, pydantic.Field(gt=3)], 3),
        (Annotated[int, msgspec.Meta(gt=3)], 3),
        (Color, "blue"),
        (int, None),
        (int, object()),
        (Any, object()),
        (Any, {1: {2}, "f": open}),
    ],
)
def test_what_the_annotation_does_not_admit_is_refused_before_it_is_sent(annotation: Any, value: Any):
    made = typed(annotation)
    with pytest.raises(PayloadError, match=r"task 'typed-|can't be written as JSON"):
        made.encode_payload(value)


@pytest.mark.parametrize("data", [b"", b"{", b'"\xff"', b'{"y":1}', b"null"])
def test_bytes_that_are_no_payload_are_said_to_be_none(data: bytes):
    with pytest.raises(PayloadError, match=r"task 'typed-.*payload"):
        typed(Point).decode_payload(data)


def test_a_payload_that_is_missing_is_an_error_unless_none_is_admitted():
    with pytest.raises(PayloadError):
        typed(Point).decode_payload(None)
    assert typed(Point | None).decode_payload(None) is None


def test_payloads_of_other_media_types():
    assert typed(str).decode_payload(b'{"a":1}', "text/plain") == '{"a":1}'
    assert typed(Point).decode_payload(b'{"json":{"x":3},"meta":{}}', "application/super+json") == Point(3)
    assert typed(Any).decode_payload(b"[1]", "application/json") == [1]


def test_a_class_that_nobody_can_read_is_a_mistake_of_the_tasks():
    with pytest.raises(ConfigurationError, match="can't be read from JSON"):
        typed(Foreign | Point | Line).decode_payload(b"{}")


def test_no_result_is_no_bytes():
    assert at_top.encode_output(None) == (None, "application/json")
    assert at_top.decode_output(None) is None


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_any_json_value_comes_back(value: Any):
    assert _anything.decode_payload(_anything.encode_payload(value)) == value


@task
def _anything(x: Any) -> Any:
    return x


# Retries


def test_delays_grow_to_a_limit():
    retry = Retry(min_delay=2, factor=3, max_delay="1m", jitter=False)
    assert [retry.delay_after(attempt) for attempt in (1, 2, 3, 4, 5)] == [2, 6, 18, 54, 60]
    assert Retry(jitter=False).delay_after(100_000) == 60


@given(st.integers(1, 50), st.floats(0, 1, exclude_max=True))
def test_jitter_is_up_to_twice(attempt: int, chance: float):
    plain = Retry(jitter=False, max_delay=10_000).delay_after(attempt)
    assert plain <= Retry(max_delay=10_000).delay_after(attempt, lambda: chance) <= min(10_000, 2 * plain)


def test_a_retry_can_be_written_down_and_read_back():
    retry = Retry(4, 1.5, "200ms", timedelta(minutes=2), jitter=False)
    assert retry.as_dict() == {
        "max_attempts": 4,
        "factor": 1.5,
        "min_delay": 0.2,
        "max_delay": 120.0,
        "jitter": False,
    }
    assert Retry(**retry.as_dict()) == retry


@pytest.mark.parametrize(
    "given", [{"max_attempts": 0}, {"factor": 0.5}, {"factor": float("nan")}, {"min_delay": "soon"}, {"max_delay": -1}]
)
def test_a_retry_that_cannot_work_is_refused(given: dict[str, Any]):
    with pytest.raises(ConfigurationError, match=next(iter(given))):
        Retry(**given)


# The current run


def test_the_current_run_is_that_of_this_thread_and_ends_with_its_block():
    assert current_run() is None
    with entered_run(RUN) as entered:
        assert current_run() is entered is RUN
        elsewhere: list[RunContext | None] = []
        thread = threading.Thread(target=lambda: elsewhere.append(current_run()))
        thread.start()
        thread.join()
        assert elsewhere == [None]
    assert current_run() is None
