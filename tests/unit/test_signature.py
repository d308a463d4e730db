"""Options: what can be said about a call, who wins, and what is refused."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pgtask.errors import BadOption
from pgtask.signature import CallOptions, merge, placeholders, unknown_option, validate

SOON = datetime(2027, 1, 1, tzinfo=UTC)


def said(**options: Any) -> CallOptions:
    return merge(validate(options))


def test_nothing_said_is_all_default() -> None:
    assert said() == CallOptions()
    assert said().policy_json() is None
    assert said().headers_json() is None


def test_durations_are_seconds_or_timedelta() -> None:
    options = said(countdown=timedelta(minutes=1), expires=90, timeout=2.5, result_ttl=0)

    assert (options.delay, options.expires_in) == (60.0, 90.0)
    assert (options.timeout, options.result_ttl) == (2.5, 0.0)


def test_the_policy_holds_what_was_said() -> None:
    options = said(backoff=[1, timedelta(seconds=2)], jitter=0, timeout=5, on_crash="fail")

    assert json.loads(options.policy_json() or "") == {
        "backoff": [1.0, 2.0],
        "jitter": 0.0,
        "timeout": 5.0,
        "on_crash": "fail",
    }
    assert json.loads(said(memory_limit="1.5GB").policy_json() or "") == {"memory_limit": 3 << 29}
    assert said(on_crash="retry").policy_json() is None
    assert said(backoff=lambda attempt: attempt).policy_json() is None


def test_a_later_layer_wins_and_none_means_default() -> None:
    task = validate({"queue": "mail", "priority": 5, "timeout": 10, "tags": ["a"]})
    call = validate({"queue": "urgent", "timeout": None, "tags": None})

    assert merge(task, call) == CallOptions(queue="urgent", priority=5)


def test_one_way_to_say_when_replaces_the_other() -> None:
    later = validate({"countdown": 60, "expires": 90})
    at = validate({"eta": SOON, "expires": SOON + timedelta(1)})

    assert merge(later, at).delay is None
    assert merge(later, at).run_at == SOON
    assert merge(at, later).run_at is None
    assert merge(at, later).expires_in == 90.0
    assert merge(at, later).expires_at is None


def test_headers_travel_as_json_and_tags_once_each() -> None:
    options = said(headers={"tenant": "a", "n": [1, None]}, tags=["x", "y", "x"])

    assert options.headers_json() == '{"tenant":"a","n":[1,null]}'
    assert options.tags == ("x", "y")
    assert said(headers={}).headers_json() is None


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("queue", "a b", "1 to 128 of the characters"),
        ("queue", "x" * 129, "1 to 128 of the characters"),
        ("queue", 7, "1 to 128 of the characters"),
        ("priority", 101, "an integer from -100 to 100, got 101"),
        ("priority", True, "an integer from -100 to 100, got True"),
        ("priority", 1.0, "an integer"),
        ("max_attempts", 0, "an integer from 1"),
        ("max_crashes", 0, "an integer from 1"),
        ("backoff", "exponential", '"exp", "const:S"'),
        ("backoff", "const:x", "'x' is not a number of seconds"),
        ("backoff", "const:-1", "not a number of seconds"),
        ("backoff", [], "an empty list"),
        ("backoff", [1, "x"], r"backoff\[1\] must be seconds"),
        ("jitter", 1.5, "fraction from 0 to 1"),
        ("jitter", True, "fraction from 0 to 1"),
        ("timeout", 0, "more than 0 seconds, got 0"),
        ("timeout", timedelta(0), "more than 0"),
        ("timeout", -1, "between 0 and 3155760000 seconds, got -1"),
        ("soft_timeout", 0.0, "more than 0 seconds, got 0.0"),
        ("soft_timeout", timedelta(seconds=-1), "between 0 and"),
        ("memory_limit", 0, "= 0: must be a size of at least one byte → write 300MB"),
        ("memory_limit", -1, "must be a size"),
        ("memory_limit", "300 megabytes", "'300 megabytes': must be a size"),
        ("memory_limit", True, "must be a size"),
        ("memory_limit", 1.5, "must be a size"),
        ("timeout", math.nan, "between 0 and"),
        ("soft_timeout", math.inf, "between 0 and"),
        ("countdown", -1, "between 0 and"),
        ("countdown", True, "seconds or a timedelta"),
        ("countdown", "5", "seconds or a timedelta"),
        ("countdown", 1e12, "between 0 and"),
        ("eta", datetime(2027, 1, 1), "has no time zone; .*, or use countdown$"),
        ("eta", 60, "a datetime with a time zone"),
        ("expires", datetime(2027, 1, 1), "has no time zone; .*, or give seconds$"),
        ("expires", 0, "the job could never run"),
        ("key", "", "1 to 512 characters"),
        ("key", "x" * 513, "1 to 512 characters"),
        ("key", "a\0b", "NUL"),
        ("key", "\ud800", "not valid Unicode"),
        ("key", "a{", r"a single '\{'; write '\{\{'"),
        ("serial", "{order.id}", "plain name of a parameter"),
        ("serial", "{0}", "plain name of a parameter"),
        ("serial", "{x!r}", "plain name of a parameter"),
        ("on_conflict", "drop", "one of replace, keep, raise"),
        ("keep", "some", "one of all, failures, none"),
        ("on_crash", True, "one of retry, fail"),
        ("tags", "urgent", "a list of strings"),
        ("tags", [1], "each is a string"),
        ("tags", ["a\0"], "NUL"),
        ("headers", ["a"], "a mapping with string keys"),
        ("headers", {1: 2}, "a mapping with string keys"),
        ("headers", {"a": math.nan}, r"headers\['a'\]: JSON has no nan"),
        ("headers", {"a": SOON}, r"headers\['a'\]: expected `str`, got `datetime` \(datetime"),
        ("headers", {"a": "x" * 70_000}, "more than 65536"),
    ],
)
def test_a_value_that_cannot_work_is_refused(option: str, value: Any, says: str) -> None:
    with pytest.raises(BadOption, match=says) as caught:
        said(**{option: value})

    assert option in str(caught.value)
    assert isinstance(caught.value, (TypeError, ValueError))


def test_options_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(BadOption, match="countdown and eta both say when"):
        said(countdown=1, eta=SOON)
    with pytest.raises(BadOption, match=r"soft_timeout .60 s. does not come before timeout .50 s."):
        said(soft_timeout=60, timeout=50)
    with pytest.raises(BadOption, match=r"soft_timeout .5 s. does not come before timeout .5 s."):
        said(soft_timeout=5, timeout=timedelta(seconds=5))
    with pytest.raises(BadOption, match=r"expires .60 s. is not after the start .60 s from now."):
        said(countdown=60, expires=60)
    with pytest.raises(BadOption, match="is not after eta"):
        said(eta=SOON, expires=SOON)


def test_an_unknown_option_names_the_nearest() -> None:
    with pytest.raises(BadOption, match="unknown option 'priorty'; did you mean priority"):
        validate({"priorty": 1})
    with pytest.raises(BadOption, match="unknown option 'zzz'; there are: backoff, countdown"):
        validate({"zzz": 1})


@pytest.mark.parametrize("option", ["name", "bind", "transaction", "retry_for", "give_up_on"])
def test_what_the_task_is_cannot_be_said_at_a_call(option: str) -> None:
    with pytest.raises(BadOption, match=f"{option} belongs to the task"):
        validate({option: None})


@pytest.mark.parametrize(
    ("celery", "ours"),
    [
        ("max_retries", "max_attempts"),
        ("autoretry_for", "retry_for"),
        ("dont_autoretry_for", "give_up_on"),
        ("default_retry_delay", "backoff"),
        ("retry_backoff", "backoff"),
        ("retry_backoff_max", "backoff"),
        ("retry_jitter", "jitter"),
        ("connection", "using"),
        ("producer", "using"),
        ("time_limit", "timeout"),
        ("soft_time_limit", "soft_timeout"),
        ("task_id", "key"),
        ("ignore_result", "keep"),
        ("acks_late", "on_crash"),
        ("reject_on_worker_lost", "on_crash"),
        ("result_expires", "result_ttl"),
        ("routing_key", "queue"),
        ("exchange", "queue"),
        ("shadow", "name"),
    ],
)
def test_celerys_spelling_is_answered_with_ours(celery: str, ours: str) -> None:
    assert ours in str(unknown_option(celery))
    with pytest.raises(BadOption, match=f"{celery} is not an option of pgtask"):
        validate({celery: 1})


def test_placeholders_are_filled_from_the_arguments() -> None:
    options = said(key="user:{user_id}", serial="{{{kind}}}")

    signature = options.signature("t", "[]", None, lambda: {"user_id": 7, "kind": "x"})

    assert placeholders(options) == {"user_id", "kind"}
    assert (signature.key, signature.serial) == ("user:7", "{x}")
    assert signature.options is options


def test_a_placeholder_without_its_argument_names_what_there_is() -> None:
    with pytest.raises(BadOption, match="no argument 'user'; it has: user_id"):
        said(key="{user}").signature("t", "[]", None, lambda: {"user_id": 1})


@pytest.mark.parametrize("value", ["", "x" * 513, "a\0"])
def test_what_a_placeholder_yields_is_a_key_too(value: str) -> None:
    with pytest.raises(BadOption, match="key"):
        said(key="{value}").signature("t", "[]", None, lambda: {"value": value})


def test_arguments_are_not_asked_without_placeholders() -> None:
    def asked() -> dict[str, Any]:
        raise AssertionError("not needed")

    assert said(key="plain").signature("t", "[1]", None, asked).key == "plain"
