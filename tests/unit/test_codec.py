"""The codec: what a call becomes in JSON, what comes back, and what is refused where."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from typing import Annotated, Any, Literal, NamedTuple, NewType, TypedDict
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgtask.codec import (
    CallCodec,
    decode_result,
    encode_exact,
    encode_result,
    encode_untyped,
)
from pgtask.errors import (
    ArgumentInvalid,
    ArgumentMismatch,
    CodecError,
    DecodeError,
    DefinitionError,
    PayloadTooLarge,
)
from pgtask.parameters import injected

UserId = NewType("UserId", int)


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Level(IntEnum):
    LOW = 1
    HIGH = 2


class Word(StrEnum):
    YES = "yes"


@dataclass
class Line:
    sku: str
    count: int = 1
    price: Decimal = Decimal(0)


class Order(msgspec.Struct):
    id: UUID
    lines: list[Line]
    placed: datetime | None = None


class Address(TypedDict):
    street: str
    floor: int


class Point(NamedTuple):
    x: int
    y: int


@dataclass
class Node:
    value: int
    children: list[Node] = field(default_factory=list)


@dataclass(eq=False)
class Opaque:
    when: datetime
    note: str | None = None


def codec(function: Callable[..., Any], *, bind: bool = False) -> CallCodec:
    return CallCodec(function, task=function.__name__, bind=bind)


def there_and_back(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    made = codec(function)
    return made.decode(*made.encode(args, kwargs))


def add(x: int, y: int = 0) -> int:
    return x + y


def send(to: str, subject: str = "hi", *, copies: int = 1) -> None: ...


def every(
    a: Line,
    b: Order,
    c: Address,
    d: Colour,
    e: UUID,
    f: datetime,
    g: date,
    h: timedelta,
    i: Decimal,
    j: set[str],
    k: frozenset[int],
    m: tuple[int, str],
    n: bytes,
    o: dict[int, str],
    p: int | None,
    q: UserId,
    r: Literal["up", "down"],
    s: Level,
    t: Point,
    u: Node,
) -> None: ...


def test_positional_or_keyword_arguments_travel_by_position_and_defaults_stay_at_home() -> None:
    made = codec(send)

    assert made.encode(("ada",), {}) == ('["ada"]', None)
    assert made.encode((), {"to": "ada", "subject": "x"}) == ('["ada","x"]', None)
    assert made.encode(("ada",), {"copies": 2}) == ('["ada"]', '{"copies":2}')


def test_a_skipped_default_sends_what_follows_by_name() -> None:
    def three(a: int, b: int = 1, c: int = 2) -> None: ...

    made = codec(three)

    assert made.encode((1,), {"c": 5}) == ("[1]", '{"c":5}')
    assert made.decode("[1]", '{"c":5}') == ((1,), {"c": 5})


def test_every_supported_type_comes_back_as_it_was() -> None:
    values = (
        Line("x", 2, Decimal("1.50")),
        Order(uuid4(), [Line("y")], datetime(2027, 1, 1, tzinfo=UTC)),
        Address(street="Main", floor=3),
        Colour.RED,
        uuid4(),
        datetime(2027, 1, 1, 9, 30, 15, 123456, tzinfo=ZoneInfo("Europe/Paris")),
        date(2027, 2, 28),
        timedelta(days=-1, microseconds=7),
        Decimal("12345678901234567890.123456789"),
        {"a", "b"},
        frozenset({1, 2}),
        (1, "one"),
        b"\x00\xff",
        {1: "one", -2: "two"},
        None,
        UserId(2**70),
        "up",
        Level.HIGH,
        Point(1, 2),
        Node(1, [Node(2)]),
    )

    args, kwargs = there_and_back(every, *values)

    assert args == values
    assert kwargs == {}
    assert [type(value) for value in args] == [type(value) for value in values]


def test_unannotated_parameters_are_plain_json() -> None:
    def free(x, y=None): ...  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202 - the point

    assert there_and_back(free, {"a": [1, 2.5, "x", None, True]}) == (
        ({"a": [1, 2.5, "x", None, True]},),
        {},
    )


def test_var_arguments_are_typed_each() -> None:
    def spread(first: int, *rest: date, **named: UUID) -> None: ...

    one = uuid4()
    made = codec(spread)

    assert made.decode(*made.encode((1, date(2027, 1, 1)), {"key": one})) == (
        (1, date(2027, 1, 1)),
        {"key": one},
    )
    with pytest.raises(ArgumentInvalid, match=r"argument 'rest\[1\]': Invalid RFC3339"):
        made.decode('[1,"2027-01-01","x"]')


def test_a_producer_of_another_language_may_name_its_arguments() -> None:
    made = codec(send)

    assert made.decode("[]", '{"to":"ada","copies":3}') == (("ada",), {"copies": 3})
    assert made.decode("[]", '{"subject":"s","to":"ada"}') == (("ada", "s"), {})
    with pytest.raises(ArgumentMismatch, match=r"send\(\): missing a required argument: 'to'"):
        made.decode("[]", '{"subject":"s"}')
    with pytest.raises(ArgumentMismatch, match=r"multiple values for argument 'to'"):
        made.decode('["a"]', '{"to":"b"}')


@pytest.mark.parametrize(
    ("args", "kwargs", "says"),
    [
        ((), {}, r"^add\(\): missing a required argument: 'x'$"),
        ((1, 2, 3), {}, r"^add\(\): too many positional arguments$"),
        ((1,), {"z": 1}, r"^add\(\): got an unexpected keyword argument 'z'$"),
    ],
)
def test_wrong_arity_is_told_in_pythons_words(
    args: tuple[int, ...], kwargs: dict[str, int], says: str
) -> None:
    with pytest.raises(ArgumentMismatch, match=says) as caught:
        codec(add).encode(args, kwargs)

    assert isinstance(caught.value, TypeError)


def test_a_wrong_type_is_told_with_the_name_of_the_parameter() -> None:
    with pytest.raises(ArgumentInvalid) as caught:
        codec(send).encode((7,), {})

    assert str(caught.value) == "send(): argument 'to': expected `str`, got `int` (7)"
    assert isinstance(caught.value, ValueError)


def test_a_wrong_type_is_told_with_its_path() -> None:
    def ship(items: list[Line], notes: dict[str, list[str]] | None = None) -> None: ...

    made = codec(ship)

    with pytest.raises(ArgumentInvalid, match=r"argument 'items\[3\].sku': expected `str`"):
        made.encode(([Line("a"), Line("b"), Line("c"), Line(4)],), {})  # type: ignore[arg-type]
    with pytest.raises(ArgumentInvalid, match=r"argument 'items\[0\]'.*required field `sku`"):
        made.decode('[[{"count":1}]]')


@pytest.mark.parametrize(
    "value",
    [
        uuid4(),
        datetime(2027, 1, 1, tzinfo=UTC),
        date(2027, 1, 1),
        timedelta(1),
        Decimal(1),
        Colour.RED,
        b"bytes",
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_str_parameter_refuses_what_json_would_make_a_string_of(value: Any) -> None:
    kind = type(value).__name__

    with pytest.raises(ArgumentInvalid, match=rf"argument 'to': expected `str`, got `{kind}`"):
        codec(send).encode((value,), {})


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ('["a",7]', "argument 'items': expected `array`, got `str` ('a')"),
        ('[["a",{"b":1}]]', "argument 'items[1]': expected `str`, got `object` ({'b': 1})"),
        ('[[],{"x":["a"],"y":["b",null]}]',
         "argument 'notes[...][1]': expected `str`, got `null` (None)"),
        ('[[],{"x":[true]}]', "argument 'notes[...][0]': expected `str`, got `bool` (True)"),
        ('[[],{},{"sku":"a","count":1.5}]',
         "argument 'line.count': expected `int`, got `float` (1.5)"),
        (f'["{"x" * 500}"]', f"got `str` ('{'x' * 27}...{'x' * 28}')"),
    ],
)  # fmt: skip
def test_a_wrong_type_is_told_with_the_value_clipped(args: str, says: str) -> None:
    def ship(
        items: list[str],
        notes: dict[str, list[str]] | None = None,
        line: Line | None = None,
    ) -> None: ...

    with pytest.raises(ArgumentInvalid) as caught:
        codec(ship).decode(args)

    assert str(caught.value).endswith(says)


def test_a_value_whose_repr_fails_is_refused_all_the_same() -> None:
    class Sulky(Line):
        def __repr__(self) -> str:
            raise RuntimeError("not now")

    class Loud(Line):
        def __repr__(self) -> str:
            return "!" * 500

    def ship(item: Line) -> None: ...

    with pytest.raises(ArgumentInvalid, match=r"got `.*Sulky` \(<Sulky instance at 0x\w+>\)"):
        codec(ship).encode((Sulky("a"),), {})
    with pytest.raises(ArgumentInvalid, match=r"got `.*Loud` \(!{28}\.\.\.!{29}\)"):
        codec(ship).encode((Loud("a"),), {})


def test_a_subclass_of_str_or_int_is_one() -> None:
    assert codec(send).encode((Word.YES,), {}) == ('["yes"]', None)
    assert codec(add).encode((Level.HIGH,), {}) == ("[2]", None)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({1: 2}, r"argument 'x': the key 1 would arrive as '1'"),
        ({1, 2}, r"argument 'x': expected `list`, got `set`"),
        ([{"a": uuid4()}], r"argument \"x\[0\]\['a'\]\": expected `str`, got `UUID`"),
        (Line("a"), r"argument 'x': expected `dict`, got `Line`"),
    ],
)
def test_plain_json_refuses_what_would_arrive_as_something_else(value: Any, says: str) -> None:
    def free(x): ...  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202 - the point

    with pytest.raises(ArgumentInvalid, match=says):
        codec(free).encode((value,), {})


def test_a_subclass_of_the_annotated_dataclass_is_refused_before_it_loses_a_field() -> None:
    @dataclass
    class Special(Line):
        extra: int = 1

    def ship(item: Line) -> None: ...

    with pytest.raises(ArgumentInvalid, match=r"argument 'item': expected `Line`, got `.*Special`"):
        codec(ship).encode((Special("a"),), {})


def test_keys_that_a_typed_dict_does_not_have_are_not_lost_silently() -> None:
    def visit(where: Address) -> None: ...

    with pytest.raises(ArgumentInvalid, match="argument 'where': the key 'door' would be lost"):
        codec(visit).encode(({"street": "Main", "floor": 1, "door": 2},), {})


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("annotation", [float, float | None, Any, list[Any], dict[str, float]])
def test_numbers_that_json_has_not_are_found_wherever_they_are(
    number: float, annotation: Any
) -> None:
    def measure(x: Any, note: str | None = None) -> None: ...

    measure.__annotations__["x"] = annotation
    place, value = "x", number
    given: Any = value
    if annotation == list[Any]:
        place, given = r"x\[1\]", [None, value]
    if annotation == dict[str, float]:
        place, given = r"x\['a'\]", {"a": value}

    with pytest.raises(ArgumentInvalid, match=rf"argument .{place}.: JSON has no "):
        codec(measure).encode((given,), {})


def test_objects_without_equality_are_compared_field_by_field() -> None:
    def keep(x: Opaque) -> None: ...

    made = codec(keep)
    text, _ = made.encode((Opaque(datetime(2027, 1, 1, tzinfo=UTC)),), {})

    assert text == '[{"when":"2027-01-01T00:00:00Z","note":null}]'
    with pytest.raises(ArgumentInvalid, match=r"argument 'x.note': expected `str`, got `UUID`"):
        made.encode((Opaque(datetime(2027, 1, 1, tzinfo=UTC), uuid4()),), {})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "says"),
    [("a\0b", "cannot store the character NUL"), ("\ud800", "lone surrogate")],
)
def test_text_that_postgresql_cannot_store_is_refused_with_its_place(text: str, says: str) -> None:
    def ship(items: list[dict[str, str]]) -> None: ...

    made = codec(ship)

    with pytest.raises(ArgumentInvalid, match=says) as caught:
        made.encode(([{"ok": "\\u0000"}, {"sku": text}],), {})
    assert "items[1]['sku']" in str(caught.value)
    with pytest.raises(ArgumentInvalid, match=says):
        made.encode(([{text: "value"}],), {})


def test_an_object_that_msgspec_does_not_know_is_refused_with_its_place() -> None:
    with pytest.raises(ArgumentInvalid, match=r"argument 'x\[0\]': .*type object"):
        encode_untyped((), {"x": [object()]}, task="free")


def test_nesting_ends_at_sixty_four_levels() -> None:
    def free(x): ...  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202 - the point

    def nested(levels: int) -> Any:
        value: Any = 1
        for _ in range(levels):
            value = [value]
        return value

    made = codec(free)
    endless: list[Any] = []
    endless.append(endless)

    assert made.decode(*made.encode((nested(64),), {})) == ((nested(64),), {})
    for deep in (nested(65), nested(100_000), endless):
        with pytest.raises(ArgumentInvalid, match="nested deeper than 64 levels"):
            made.encode((deep,), {})
    with pytest.raises(ArgumentInvalid):
        made.decode("[" * 100_000 + "]" * 100_000)


def test_too_large_a_payload_is_told_with_the_largest_argument() -> None:
    with pytest.raises(PayloadTooLarge) as caught:
        codec(send).encode(("a", "s" * 200), {"copies": 2}, 100)

    assert str(caught.value).startswith(
        "send(): the arguments take 220 bytes as JSON, more than the limit of 100; "
        "the largest is 'subject' with 202."
    )


def test_what_json_writes_otherwise_may_be_given_in_that_form() -> None:
    def forms(a: datetime, b: UUID, c: Colour, d: Line, e: float, f: list[int]) -> None: ...

    one = uuid4()
    args, _ = there_and_back(
        forms, "2027-01-01T00:00:00Z", str(one), "blue", {"sku": "x"}, 1, (1, 2)
    )

    assert args == (datetime(2027, 1, 1, tzinfo=UTC), one, Colour.BLUE, Line("x"), 1.0, [1, 2])


def test_constraints_in_annotations_hold() -> None:
    def age(years: Annotated[int, msgspec.Meta(ge=0)]) -> None: ...

    with pytest.raises(ArgumentInvalid, match="argument 'years': expected `int` >= 0"):
        codec(age).encode((-1,), {})


def test_the_context_and_injected_parameters_are_no_arguments() -> None:
    def settle(self: Any, order: int, *, connection: Any = injected()) -> None: ...  # noqa: B008 - a marker

    made = codec(settle, bind=True)

    assert made.encode((7,), {}) == ("[7]", None)
    with pytest.raises(ArgumentMismatch, match="unexpected keyword argument 'connection'"):
        made.encode((7,), {"connection": 1})
    with pytest.raises(DefinitionError, match=r"put injected\(\) parameters last"):
        codec(lambda a=injected(), b=2: None)  # noqa: B008 - a marker
    with pytest.raises(DefinitionError, match="bind=True passes the context"):
        codec(lambda *, a: None, bind=True)


class Session: ...


@dataclass
class Holder:
    session: Session


@pytest.mark.parametrize("annotation", [Session, list[Session], Holder, Callable[[], int], complex])
def test_a_parameter_that_json_cannot_carry_is_refused_at_decoration(annotation: Any) -> None:
    def work(thing): ...  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202 - set below

    work.__annotations__["thing"] = annotation

    with pytest.raises(DefinitionError, match=r"'work': parameter 'thing'.*pass an id"):
        codec(work)


def test_a_union_that_json_cannot_tell_apart_is_refused_at_decoration() -> None:
    def work(thing: UUID | datetime) -> None: ...

    with pytest.raises(DefinitionError, match="parameter 'thing': Type unions"):
        codec(work)


def test_a_result_that_json_cannot_carry_is_refused_at_decoration() -> None:
    def work() -> Session:
        return Session()

    with pytest.raises(DefinitionError, match=r"the result is annotated .*Session"):
        codec(work)


def test_names_that_come_later_are_resolved_at_first_use() -> None:
    scope: dict[str, Any] = {"__name__": "later"}
    exec("def work(thing: 'Later') -> 'Later': ...", scope)
    made = CallCodec(scope["work"], task="later.work")

    with pytest.raises(
        DefinitionError, match=r"annotation of parameter 'thing', '?Later'?, cannot be"
    ):
        made.encode((1,), {})
    scope["Later"] = int

    assert made.encode((1,), {}) == ("[1]", None)
    assert made.decode_result("1") == 1


def test_results_come_back_in_the_type_of_the_annotation() -> None:
    def work() -> tuple[datetime, set[int]]:
        return datetime(2027, 1, 1, tzinfo=UTC), {1}

    text = encode_result(work())

    assert codec(work).decode_result(text) == work()
    assert codec(work).decode_result(None) is None
    assert decode_result("[1]", tuple[int]) == (1,)
    with pytest.raises(DecodeError, match="does not fit its return annotation"):
        codec(work).decode_result('"x"')


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ([math.nan], r"result\[0\]: JSON has no nan"),
        ({"a": "\0"}, r"result\['a'\]: PostgreSQL cannot store the character NUL"),
        ("\udfff", "result: lone surrogate"),
        ({"a": object()}, r"result\['a'\]: .*type object"),
        (Line("x", price=math.inf), r"result.price: JSON has no inf"),  # type: ignore[arg-type]
    ],
)
def test_results_that_json_cannot_carry_are_told_with_their_place(value: Any, says: str) -> None:
    with pytest.raises(CodecError, match=says):
        encode_result(value)


def test_exact_values_refuse_what_would_change() -> None:
    assert encode_exact({"tenant": "a"}, "headers") == '{"tenant":"a"}'
    with pytest.raises(CodecError, match=r"headers\['id'\]: expected `str`, got `UUID`"):
        encode_exact({"id": uuid4()}, "headers")


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@given(plain, plain)
def test_any_plain_json_round_trips_by_position_and_by_name(one: Any, two: Any) -> None:
    text, named = encode_untyped((one,), {"key": two}, task="free")

    assert msgspec.json.decode(text) == [one]
    assert msgspec.json.decode(named or "") == {"key": two}


@given(
    st.lists(
        st.builds(
            Order,
            id=st.uuids(),
            lines=st.lists(
                st.builds(
                    Line,
                    sku=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
                    count=st.integers(),
                    price=st.decimals(allow_nan=False, allow_infinity=False),
                ),
                max_size=3,
            ),
            placed=st.none() | st.datetimes(timezones=st.just(UTC)),
        ),
        max_size=3,
    ),
    st.dictionaries(st.integers(), st.timedeltas()),
    st.frozensets(st.dates()),
    st.binary(),
)
def test_typed_values_round_trip(
    orders: list[Order], waits: dict[int, timedelta], days: frozenset[date], blob: bytes
) -> None:
    def work(
        orders: list[Order], waits: dict[int, timedelta], days: frozenset[date], blob: bytes
    ) -> None: ...

    args, kwargs = there_and_back(work, orders, waits, days, blob=blob)

    assert args == (orders, waits, days, blob)
    assert kwargs == {}


@given(st.text(st.characters()) | st.lists(st.text(st.characters()), max_size=3))
def test_text_is_either_refused_or_arrives_unchanged(value: Any) -> None:
    try:
        text, _ = encode_untyped((value,), {}, task="free")
    except ArgumentInvalid:
        flat = value if isinstance(value, str) else "".join(value)
        assert "\0" in flat or any(0xD800 <= ord(char) < 0xE000 for char in flat)
    else:
        assert msgspec.json.decode(text) == [value]
        assert "\0" not in str(value)
