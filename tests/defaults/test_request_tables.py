"""Tables into request messages."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import pytest
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st

from trio_sup._structuring import InvalidTable
from trio_sup.defaults._request_tables import nearest, request_from
from trio_sup.protocol import backend_pb2 as pb


def made(kind: Any, table: object) -> Any:
    return request_from(kind.DESCRIPTOR, table, "request")


def problems(kind: Any, table: object) -> list[str]:
    with pytest.raises(InvalidTable) as caught:
        made(kind, table)
    assert str(caught.value)
    return list(caught.value.problems)


def test_every_kind_of_field_is_filled() -> None:
    request = made(
        pb.ModelOptions,
        {
            "Model": "größer",
            "ContextSize": 4096,
            "MMap": True,
            "CFGScale": 1.5,
            "LoraScale": 2,
            "Options": ["a", "b"],
            "LoraScales": [1, 0.5],
            "GrammarTriggers": [{"word": "x"}, {}],
            "Proxy": {"mode": "on"},
        },
    )
    assert request == pb.ModelOptions(
        Model="größer",
        ContextSize=4096,
        MMap=True,
        CFGScale=1.5,
        LoraScale=2.0,
        Options=["a", "b"],
        LoraScales=[1.0, 0.5],
        GrammarTriggers=[pb.GrammarTrigger(word="x"), pb.GrammarTrigger()],
        Proxy=pb.ProxyOptions(mode="on"),
    )
    assert made(pb.ModelOptions, {"Proxy": {}}).HasField("Proxy")
    assert made(pb.PredictOptions, {"Metadata": {"k": "v"}}).Metadata == {"k": "v"}
    assert made(pb.AudioEncodeRequest, {"pcm_data": "aGVsbG8="}).pcm_data == b"hello"
    assert made(pb.AudioEncodeRequest, {"pcm_data": b"\0\1"}).pcm_data == b"\0\1"
    assert made(pb.AudioTransformStreamConfig, {"sample_format": "S16_LE"}).sample_format == 1
    assert made(pb.StoresSetOptions, {"Keys": [{"Floats": [math.inf]}]}).Keys[0].Floats[0] == math.inf
    assert made(pb.HealthMessage, {}) == pb.HealthMessage()


@pytest.mark.parametrize(
    ("kind", "table", "expected"),
    [
        (pb.ModelOptions, [], ": expected a table (got [])"),
        (pb.ModelOptions, {"Model": 5}, ".Model: expected text (got 5)"),
        (pb.ModelOptions, {"Model": None}, ".Model: expected text (got None)"),
        (pb.ModelOptions, {"Model": "\ud800"}, ".Model: expected text that can be written in UTF-8"),
        (pb.ModelOptions, {"ContextSize": "5"}, ".ContextSize: expected a whole number (got '5')"),
        (pb.ModelOptions, {"ContextSize": 5.0}, ".ContextSize: expected a whole number (got 5.0)"),
        (pb.ModelOptions, {"ContextSize": True}, ".ContextSize: expected a whole number (got True)"),
        (pb.ModelOptions, {"ContextSize": 2**31}, ".ContextSize: expected a number from -2147483648 to"),
        (pb.TranscriptRequest, {"threads": -1}, ".threads: expected a number from 0 to 4294967295 (got -1)"),
        (pb.ModelOptions, {"MMap": 1}, ".MMap: expected true or false (got 1)"),
        (pb.ModelOptions, {"MMap": "true"}, ".MMap: expected true or false (got 'true')"),
        (pb.ModelOptions, {"CFGScale": True}, ".CFGScale: expected a number (got True)"),
        (pb.ModelOptions, {"CFGScale": 1e300}, ".CFGScale: expected a number from -3.40282e+38 to 3.40282e+38"),
        (pb.CandidateScore, {"log_prob": 10**400}, ".log_prob: expected a number"),
        (pb.ModelOptions, {"Options": "a"}, ".Options: expected a list (got 'a')"),
        (pb.ModelOptions, {"Options": {"a": 1}}, ".Options: expected a list"),
        (pb.ModelOptions, {"Options": ["a", 5]}, ".Options[1]: expected text (got 5)"),
        (pb.ModelOptions, {"GrammarTriggers": ["x"]}, ".GrammarTriggers[0]: expected a table (got 'x')"),
        (pb.ModelOptions, {"Proxy": "x"}, ".Proxy: expected a table (got 'x')"),
        (pb.ModelOptions, {"Proxy": {"mode": 5}}, ".Proxy.mode: expected text (got 5)"),
        (pb.PredictOptions, {"Metadata": ["a"]}, ".Metadata: expected a table"),
        (pb.PredictOptions, {"Metadata": {"a b": 5}}, ".Metadata['a b']: expected text (got 5)"),
        (pb.AudioEncodeRequest, {"pcm_data": "###"}, ".pcm_data: expected bytes, as text in base64 (got '###')"),
        (pb.AudioEncodeRequest, {"pcm_data": 5}, ".pcm_data: expected bytes, as text in base64 (got 5)"),
        (pb.AudioTransformStreamConfig, {"sample_format": "X"}, ".sample_format: expected one of 'F32_LE',"),
        (pb.AudioTransformStreamConfig, {"sample_format": 1}, ".sample_format: expected one of"),
        (pb.ModelOptions, {"Modle": "x"}, ".Modle: ModelOptions has no such field; did you mean 'Model'?"),
        (pb.ModelOptions, {"context_size": 1}, ".context_size: ModelOptions has no such field; did you mean 'Con"),
        (pb.ModelOptions, {"mmap": True}, ".mmap: ModelOptions has no such field; did you mean 'MMap'?"),
        (pb.ModelOptions, {"xyzzy": True}, ".xyzzy: ModelOptions has no such field"),
        (pb.ModelOptions, {5: True}, ".5: ModelOptions has no such field"),
        (pb.ProxyOptions, {"upstreamUrl": ""}, ".upstreamUrl: ProxyOptions has no such field; did you mean 'upstream_"),
        (pb.HealthMessage, {"a": 1}, ".a: HealthMessage has no such field"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named_with_its_path(kind: Any, table: object, expected: str) -> None:
    (problem,) = problems(kind, table)
    assert problem.startswith(f"request{expected}")


def test_all_problems_come_at_once() -> None:
    found = problems(pb.ModelOptions, {"Model": 1, "MMap": 2, "Proxy": {"mode": 3, "nope": 4}, "Options": [5, 6]})
    assert [problem.partition(":")[0] for problem in found] == [
        "request.Model",
        "request.MMap",
        "request.Proxy.mode",
        "request.Proxy.nope",
        "request.Options[0]",
        "request.Options[1]",
    ]


@pytest.mark.parametrize(
    ("name", "near"), [("MODEL", "Model"), ("f16_memory", "F16Memory"), ("Threds", "Threads"), ("quack", None)]
)
def test_the_nearest_name_is_found_whatever_its_case(name: str, near: str | None) -> None:
    assert nearest(name, pb.ModelOptions.DESCRIPTOR.fields_by_name) == near


_SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.binary(max_size=5))
_ANYTHING = st.recursive(
    _SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)
_NAMES = sorted(pb.ModelOptions.DESCRIPTOR.fields_by_name)


@given(table=st.dictionaries(st.sampled_from(_NAMES) | st.text(max_size=5), _ANYTHING, max_size=6))
def test_anything_becomes_a_message_or_named_problems(table: dict[str, Any]) -> None:
    with contextlib.suppress(InvalidTable):
        message = made(pb.ModelOptions, table)
        assert pb.ModelOptions.FromString(message.SerializeToString()) == message or "nan" in str(message)
        return
    found = problems(pb.ModelOptions, table)
    assert found
    assert all(problem.startswith(("request.", "request[")) for problem in found)


@given(
    numbers=st.dictionaries(st.sampled_from(["ContextSize", "Seed", "Threads"]), st.integers(-(2**31), 2**31 - 1)),
    texts=st.dictionaries(st.sampled_from(["Model", "Tokenizer"]), st.text(st.characters(codec="utf-8"), max_size=9)),
    lists=st.dictionaries(st.just("Options"), st.lists(st.text(st.characters(codec="utf-8"), max_size=9), max_size=4)),
)
def test_it_agrees_with_the_json_mapping_on_what_both_take(
    numbers: dict[str, int], texts: dict[str, str], lists: dict[str, list[str]]
) -> None:
    table = {**numbers, **texts, **lists}
    assert made(pb.ModelOptions, table) == json_format.ParseDict(table, pb.ModelOptions())
