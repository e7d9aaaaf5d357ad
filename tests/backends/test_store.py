"""The vector store: by calls of grpcio's client, and against a naive model."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Sequence

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.backends.serving import STORE, Client, client_of, serving
from trio_sup.backends._vectors import Vectors
from trio_sup.protocol import backend_pb2 as pb

Vector = tuple[float, ...]


@pytest.fixture
def client() -> Iterator[Client]:
    with serving(STORE) as (_, address), client_of(address) as client:
        yield client


def keys_of(vectors: Sequence[Vector]) -> list[pb.StoresKey]:
    return [pb.StoresKey(Floats=vector) for vector in vectors]


def store(client: Client, entries: dict[Vector, bytes]) -> None:
    values = [pb.StoresValue(Bytes=value) for value in entries.values()]
    request = pb.StoresSetOptions(Keys=keys_of(list(entries)), Values=values)
    assert client.call("StoresSet", request, pb.Result).success


def found(result: pb.StoresGetResult | pb.StoresFindResult) -> list[tuple[Vector, bytes]]:
    return [(tuple(key.Floats), value.Bytes) for key, value in zip(result.Keys, result.Values, strict=True)]


def get(client: Client, *vectors: Vector) -> list[tuple[Vector, bytes]]:
    return found(client.call("StoresGet", pb.StoresGetOptions(Keys=keys_of(vectors)), pb.StoresGetResult))


def find(client: Client, vector: Vector, count: int) -> pb.StoresFindResult:
    request = pb.StoresFindOptions(Key=pb.StoresKey(Floats=vector), TopK=count)
    return client.call("StoresFind", request, pb.StoresFindResult)


def test_store_remembers_overwrites_and_forgets(client: Client) -> None:
    assert client.call("Health", pb.HealthMessage(), pb.Reply).message == b"OK"
    store(client, {(1, 0): b"a", (0, 1): b"b", (1, 1): b"c"})
    store(client, {(0, 1): b"B"})
    assert get(client, (1, 1), (5, 5), (0, 1)) == [((1, 1), b"c"), ((0, 1), b"B")]
    absent: Vector = (7, 7)
    request = pb.StoresDeleteOptions(Keys=keys_of([(1, 1), absent]))
    assert client.call("StoresDelete", request, pb.Result).success
    assert get(client, (1, 1), (1, 0)) == [((1, 0), b"a")]


def test_find_gives_the_most_similar_first(client: Client) -> None:
    store(client, {(1, 0): b"east", (0, 2): b"north", (-3, 0): b"west", (0, 0): b"nowhere", (4, 4): b"north-east"})
    result = find(client, (2, 1), 3)
    assert [value.Bytes for value in result.Values] == [b"north-east", b"east", b"north"]
    assert list(result.Similarities) == pytest.approx([3 / math.sqrt(10), 2 / math.sqrt(5), 1 / math.sqrt(5)])
    everything = find(client, (2, 1), 2**31 - 1)
    assert [value.Bytes for value in everything.Values][3:] == [b"nowhere", b"west"]
    assert list(everything.Similarities)[3] == 0
    assert list(find(client, (0, 0), 5).Similarities) == [0] * 5


def test_equally_similar_keys_keep_their_order(client: Client) -> None:
    store(client, {(float(2**power), 0): str(power).encode() for power in (3, 1, 2, 0)})
    assert [value.Bytes for value in find(client, (1, 0), 3).Values] == [b"3", b"1", b"2"]


def test_keys_are_the_float32_that_arrived(client: Client) -> None:
    (single,) = struct.unpack("f", struct.pack("f", 0.1))
    store(client, {(0.1, -0.0): b"x"})
    assert get(client, (single, 0.0)) == [((single, -0.0), b"x")]


@pytest.mark.parametrize(
    ("keys", "values"),
    [
        ([(1.0, 2.0)], []),
        ([(1.0, 2.0)], [b"a", b"b"]),
        ([(1.0, 2.0), (1.0,)], [b"a", b"b"]),
        ([(1.0, 2.0, 3.0)], [b"a"]),
        ([(1.0, 2.0), ()], [b"a", b"b"]),
        ([(1.0, 2.0), (math.nan, 1.0)], [b"a", b"b"]),
        ([(1.0, 2.0), (math.inf, 1.0)], [b"a", b"b"]),
    ],
)
def test_wrong_set_is_refused_and_changes_nothing(client: Client, keys: list[Vector], values: list[bytes]) -> None:
    store(client, {(9.0, 9.0): b"old"})
    request = pb.StoresSetOptions(Keys=keys_of(keys), Values=[pb.StoresValue(Bytes=value) for value in values])
    with pytest.raises(grpc.RpcError) as caught:
        client.call("StoresSet", request, pb.Result)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert found(find(client, (1.0, 1.0), 10)) == [((9.0, 9.0), b"old")]


@pytest.mark.parametrize(
    ("vector", "count"), [((1.0, 0.0), 0), ((1.0, 0.0), -1), ((), 1), ((1.0,), 1), ((math.nan, 0.0), 1)]
)
def test_wrong_find_is_refused(client: Client, vector: Vector, count: int) -> None:
    store(client, {(9.0, 9.0): b"old"})
    with pytest.raises(grpc.RpcError) as caught:
        find(client, vector, count)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_empty_store_finds_nothing_and_takes_any_length(client: Client) -> None:
    assert found(find(client, (1.0, 2.0, 3.0), 5)) == []
    store(client, {(1.0,): b"a"})
    client.call("StoresDelete", pb.StoresDeleteOptions(Keys=keys_of([(1.0,)])), pb.Result)
    store(client, {(1.0, 2.0): b"b"})
    assert get(client, (1.0, 2.0)) == [((1.0, 2.0), b"b")]


# ---- against a naive model

numbers = st.floats(width=32, allow_nan=False, allow_infinity=False)
vectors = st.one_of(
    st.tuples(numbers, numbers, numbers),
    st.tuples(*[st.sampled_from([-1.0, 0.0, -0.0, 1.0, 2.0])] * 3),  # so that keys meet again
)
entries = st.lists(st.tuples(vectors, st.binary(max_size=2)), max_size=4)
deletions = st.lists(vectors, max_size=3)


def cosine(left: Vector, right: Vector) -> float:
    norms = math.hypot(*left) * math.hypot(*right)
    return sum(a / norms * b for a, b in zip(left, right, strict=True)) if norms else 0.0


@given(st.lists(st.tuples(entries, deletions), max_size=5), vectors, st.integers(1, 10))
def test_store_agrees_with_a_naive_model(
    steps: list[tuple[list[tuple[Vector, bytes]], list[Vector]]], query: Vector, count: int
) -> None:
    store, model = Vectors(), dict[Vector, bytes]()
    for added, deleted in steps:
        store.set([key for key, _ in added], [value for _, value in added])
        model.update(added)
        store.delete(deleted)
        for key in deleted:
            model.pop(key, None)
    assert len(store) == len(model)
    assert [(tuple(entry.key), entry.value) for entry in store.get(model)] == list(model.items())
    matches = store.search(query, count)()
    best = sorted((cosine(query, key) for key in model), reverse=True)[:count]
    assert [match.similarity for match in matches] == pytest.approx(best, abs=1e-9)
    for match in matches:
        assert model[tuple(match.entry.key)] == match.entry.value
        assert match.similarity == pytest.approx(cosine(query, tuple(match.entry.key)), abs=1e-9)
