"""An index is read whole, as text, and within bounds; what is broken in it hides nothing else."""

from __future__ import annotations

import re
import textwrap
import time
from typing import Any

import attrs
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tests.gallery._official_index import BUILDS, CONCRETES, METAS, official_index
from trio_sup import InvalidValue
from trio_sup.gallery import _index_yaml
from trio_sup.gallery._gallery import Gallery
from trio_sup.gallery._index import MOST_PROBLEMS, Index, IndexEntry, parse_index
from trio_sup.gallery._index_values import NotAnIndex

GALLERY = Gallery(name="g", url="https://example.com/index.yaml")


def parsed(text: str | bytes) -> Index:
    return parse_index(text if isinstance(text, bytes) else textwrap.dedent(text).encode(), GALLERY)


def only(text: str) -> IndexEntry:
    index = parsed(text)
    assert index.problems == ()
    (entry,) = index.entries
    return entry


# ---- what is read


def test_an_entry_has_all_fields() -> None:
    digest = "0123456789abcdef" * 4
    entry = only(f"""
        - name: cuda12-thing
          alias: thing
          uri: quay.io/a/b:c
          mirrors: [a/b:c, "oci://quay.io/a/b:d"]
          version: 1.10
          sha256: SHA256:{digest.upper()}
          description: |
            Two
            lines.
          license: mit
          urls: [https://example.com/]
          icon: https://example.com/i.png
          tags: [LLM]
          size: 1.5GB
          unknown: {{a: [1, 2]}}
    """)
    assert entry == IndexEntry(
        gallery=GALLERY,
        name="cuda12-thing",
        alias="thing",
        uri="quay.io/a/b:c",
        mirrors=("a/b:c", "oci://quay.io/a/b:d"),
        version="1.10",
        sha256=digest,
        description="Two\nlines.\n",
        license="mit",
        urls=("https://example.com/",),
        icon="https://example.com/i.png",
        tags=("LLM",),
        size="1.5GB",
    )
    assert entry.full_name == "g@cuda12-thing"
    assert not entry.is_meta


def test_only_an_entry_with_capabilities_and_without_uri_is_a_meta() -> None:
    index = parsed("""
        - &m {name: m, capabilities: {default: c}}
        - {<<: *m, name: c, uri: x}
    """)
    assert [(entry.name, entry.is_meta) for entry in index.entries] == [("m", True), ("c", False)]


@pytest.mark.parametrize(
    "text", ["1.10", "1e3", "0x10", "010", "2024-01-02", "yes", "no", "off", "true", ".inf", "12:30:45", "1_000", "=="]
)
def test_what_yaml_would_take_for_something_else_stays_text(text: str) -> None:
    entry = only(f"- {{name: a, uri: x, version: {text}, license: {text}, tags: [{text}]}}")
    assert (entry.version, entry.license, entry.tags) == (text, text, (text,))


@pytest.mark.parametrize("nothing", ["", "~", "null", '""', "!!null x"])
def test_nothing_is_nothing(nothing: str) -> None:
    entry = only(f"- {{name: a, uri: x, version: {nothing}, alias: {nothing}, sha256: {nothing}, license: {nothing}}}")
    assert (entry.version, entry.alias, entry.sha256, entry.license) == (None, None, None, "")


def test_null_in_quotes_is_a_text() -> None:
    assert only("- {name: a, uri: x, version: 'null', license: '~'}").version == "null"


@pytest.mark.parametrize("key", ["<<", "!!merge <<", "!!merge '<<'"])
def test_merge_keys_lend_what_the_entry_itself_lacks(key: str) -> None:
    _, entry = parsed(f"""
        - &a {{name: a, uri: x, license: mit, tags: [t]}}
        - name: b
          {key}: *a
          license: other
    """).entries
    assert (entry.name, entry.uri, entry.license, entry.tags) == ("b", "x", "other", ("t",))


def test_of_several_merged_tables_the_earlier_wins() -> None:
    *_, entry = parsed("""
        - &a {name: a, uri: x, license: mit}
        - &b {name: b, uri: y, license: apache, icon: i}
        - {name: c, <<: [*a, *b]}
    """).entries
    assert (entry.uri, entry.license, entry.icon) == ("x", "mit", "i")


def test_merges_go_on_over_several_steps_and_within_tables() -> None:
    *_, entry = parsed("""
        - &a {name: a, capabilities: &c {default: d, amd: e}}
        - &b {name: b, <<: *a, license: mit}
        - {name: c, <<: *b, capabilities: {<<: *c, amd: f}}
    """).entries
    assert entry.license == "mit"
    assert entry.capabilities == {"default": "d", "amd": "f"}


def test_a_key_in_quotes_merges_nothing() -> None:
    index = parsed("""
        - &a {name: a, uri: x, license: mit}
        - {name: b, uri: x, "<<": *a}
    """)
    assert index.entries[1].license == ""


_KEYS = st.sampled_from(["name", "license", "icon", "size", "version"])
_TABLES = st.dictionaries(_KEYS, st.text("abc", min_size=1, max_size=3), max_size=4)


@given(st.lists(st.tuples(_TABLES, st.lists(st.integers(0, 20), max_size=3)), min_size=1, max_size=6))
def test_merging_is_what_pyyaml_makes_of_it(tables: list[tuple[dict[str, str], list[int]]]) -> None:
    lines = []
    for number, (table, sources) in enumerate(tables):
        merged = [f"*t{source % number}" for source in sources] if number else []
        pairs = [f"{key}: '{value}'" for key, value in table.items()]
        pairs.insert(len(pairs) // 2, f"<<: [{', '.join(merged)}]")
        lines.append(f"- &t{number} {{{', '.join(pairs)}}}")
    text = "\n".join(lines)
    assert [item.value for item in _index_yaml.read_list(text.encode()).items] == yaml.safe_load(text)


def test_an_index_like_the_official_one() -> None:
    index = parsed(official_index())
    assert index.problems == ()
    assert len(index.entries) == METAS + CONCRETES
    metas = [entry for entry in index.entries if entry.is_meta]
    assert len(metas) == METAS
    assert metas[7].capabilities == {capability: f"{build}-engine-7" for capability, build in BUILDS.items()}
    last = index.entries[-1]
    assert last.uri == f"quay.io/go-skynet/local-ai-backends:latest-{last.name}"
    assert last.mirrors == (f"localai/localai-backends:latest-{last.name}",)
    assert last.alias in last.name
    assert last.tags == metas[0].tags


def test_without_the_c_parser_the_result_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    text = official_index()[:40_000].rpartition(b"\n- ")[0]
    expected = parsed(text)
    monkeypatch.delattr(yaml, "CSafeLoader")
    assert parsed(text) == expected


def test_the_c_parser_is_there() -> None:
    assert yaml.__with_libyaml__


# ---- what is broken

GOOD = "- {name: good, uri: x}\n"


@pytest.mark.parametrize(
    ("entry", "complaint"),
    [
        ("- {uri: x}", "it has no name"),
        ("- {name: , uri: x}", "name: .*nothing"),
        ("- {name: [a], uri: x}", "name: .*a list"),
        ("- {name: ../../etc, uri: x}", "name: .*'../../etc'"),
        ("- {name: a/b, uri: x}", "name: "),
        ("- {name: .hidden, uri: x}", "name: "),
        ("- {name: a.install-tmp, uri: x}", "name: "),
        (f"- {{name: {'x' * 129}, uri: x}}", "name: .*…"),
        ('- {name: "a\\0b", uri: x}', "name: "),
        ("- {name: a, uri: x, alias: ../b}", "alias: "),
        ("- {name: a}", "needs a uri, or capabilities"),
        ("- {name: a, uri: {b: c}}", "uri: .*a table"),
        ("- {name: a, uri: 'x y'}", "uri: "),
        ('- {name: a, uri: "x\\e[31m"}', "uri: "),
        (f"- {{name: a, uri: {'x' * 5000}}}", "uri: "),
        ("- {name: a, uri: x, mirrors: y}", "mirrors: "),
        ("- {name: a, uri: x, mirrors: [y, [z]]}", "mirrors: "),
        ("- {name: a, uri: x, version: [1]}", "version: "),
        ("- {name: a, uri: x, sha256: abc}", "sha256: "),
        ("- {name: a, capabilities: [x]}", "capabilities: "),
        ("- {name: a, capabilities: {amd: ../x}}", "capabilities: "),
        ("- {name: a, capabilities: {amd: [x]}}", "capabilities: "),
        ("- a", "expected a table"),
        ("- [a]", "expected a table"),
        ("-", "expected a table"),
        ("- {name: a, uri: x, uri: y}", "'uri' is there twice"),
        ("- {name: a, uri: x, [b]: c}", "a key must be text"),
        ("- {name: a, uri: x, <<: b}", "only tables can be merged"),
        ("- {name: a, uri: x, <<: *b}", "no anchor 'b'"),
        ("- &a {name: a, uri: x, <<: *a}", "used within itself"),
        ("- &a {name: a, uri: x, mirrors: &m [*m]}", "used within itself"),
        ("- !!python/object/apply:os.system {name: a, uri: x}", "the tag .*os.system"),
        ("- {name: !!python/name:os.system a, uri: x}", "the tag"),
        ("- {name: a, uri: !!binary eA==}", "the tag"),
        ("- {name: a, uri: !secret x}", "the tag"),
        ("- {name: GOOD, uri: y}", "the name 'GOOD' is there already"),
    ],
)
def test_a_broken_entry_hides_only_itself(entry: str, complaint: str) -> None:
    index = parsed(f"{GOOD}{entry}\n- {{name: last, uri: z}}")
    assert [entry.name for entry in index.entries] == ["good", "last"]
    assert index.entries[0].uri == "x"
    (problem,) = index.problems
    assert problem.startswith("entry 2 (line 2) is left out: ")
    assert re.search(complaint, problem)


@pytest.mark.parametrize(
    "field", ["description: [x]", "license: {a: b}", "urls: x", "icon: [x]", "tags: {a: b}", "size: [1]", "tags: [[x]]"]
)
def test_what_only_people_read_is_left_out_alone(field: str) -> None:
    index = parsed(f"- {{name: a, uri: x, {field}}}")
    assert [entry.name for entry in index.entries] == ["a"]
    (problem,) = index.problems
    assert problem.startswith(f"entry 1 (line 1), a: its {field.split(':')[0]} is left out: ")


def test_descriptions_cannot_control_a_terminal() -> None:
    entry = only('- {name: a, uri: x, description: "red\\e[31m\\ttab\\nline\\u202e\\u009b", license: "a\\rb"}')
    assert entry.description == "red�[31m\ttab\nline��"
    assert entry.license == "a�b"


def test_many_problems_are_counted() -> None:
    index = parsed(GOOD + "- {name: ../x}\n" * 200)
    assert len(index.problems) == MOST_PROBLEMS + 1
    assert index.problems[-1] == f"… and {200 - MOST_PROBLEMS} more"


def test_only_the_first_document_is_read_and_that_is_said() -> None:
    index = parsed(f"---\n{GOOD}---\n- {{name: b, uri: x}}\n")
    assert [entry.name for entry in index.entries] == ["good"]
    assert "more than one document" in index.problems[0]


# ---- what is no index


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "empty"),
        (b" \n# nothing\n", "empty"),
        (b"---\n", "empty"),
        (b"null", "empty"),
        (b"[]", "empty"),
        (b"<!DOCTYPE html><html></html>", "web page"),
        (b"\xef\xbb\xbf\n <html>", "web page"),
        (b"error: not found", "a table"),
        (b"not found", "text"),
        (b'"- a"', "text"),
        (b"*a", "text"),
        (b"- [", "not YAML"),
        (b"- a\n  - b: c\n d", "not YAML"),
        (b"\xff\xfe\xfa", "not YAML"),
        (b"- {name: \xc3\x28, uri: x}", "not YAML"),
        ("- {name: a, uri: x}".encode("utf-16"), "UTF-8"),
        (b"- \x07", "not YAML"),
        (b"[1, 2]", "no entry of it can be used; entry 1"),
        (b"\x1f\x8b\x08\x00\x00", "not YAML"),
    ],
)
def test_what_is_no_index_is_refused(content: bytes, why: str) -> None:
    with pytest.raises(NotAnIndex, match=why):
        parsed(content)


# ---- what is meant to harm


def _bomb(levels: int = 40) -> str:
    """Nine times nine times nine … aliases, as text far larger than any memory."""
    lines = ["- &a0 [" + ", ".join(["x"] * 9) + "]"]
    lines += [f"- &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]" for level in range(1, levels)]
    last = f"*a{levels - 1}"
    fields = ["mirrors", "version", "sha256", "capabilities", "description", "urls", "tags", "alias", "<<"]
    entries = [f"{{name: n{number}, uri: x, {field}: {last}}}" for number, field in enumerate(fields)]
    return "\n".join([*lines, *(f"- {entry}" for entry in entries), GOOD])


def test_an_alias_bomb_does_no_harm() -> None:
    started = time.perf_counter()
    index = parsed(_bomb())
    assert time.perf_counter() - started < 2
    assert [entry.name for entry in index.entries] == ["n4", "n5", "n6", "good"]
    assert max(map(len, index.problems)) < 300


@pytest.mark.parametrize(
    ("content", "why"),
    [
        pytest.param(b"[" * 1_000_000, "levels deep", id="lists"),
        pytest.param(b"- " * 1_000_000, "levels deep", id="blocks"),
        pytest.param(b"- " + b"{a: " * 1_000_000, "levels deep", id="tables"),
        pytest.param(b"- " + b"? " * 1_000_000, "levels deep", id="keys"),
        pytest.param(b"- [" + b"a," * 1_000_000 + b"]", "more than 500,000 values", id="many"),
        pytest.param(b"- &a x\n" + b"- *a\n" * 1_000_000, "more than 500,000 values", id="aliases"),
        pytest.param(
            b"- &a {" + b",".join(b"k%d: v" % number for number in range(50_000)) + b"}\n" + b"- {<<: *a}\n" * 20_000,
            "merge keys copy more than",
            id="merged tables",
        ),
        pytest.param(
            b"- &a [" + b"{}," * 50_000 + b"]\n" + b"- {<<: *a}\n" * 20_000,
            "merge keys copy more than",
            id="merged lists",
        ),
        # The C parser would need eleven seconds for these 100,000, and hours for what fits into 64 MiB.
        pytest.param(
            b"".join(b"%%TAG !a%d! x\n" % number for number in range(100_000)) + b"--- []", "directives", id="tags"
        ),
        pytest.param(
            "\x85".join(f"%TAG !a{number}! x" for number in range(100_000)).encode() + b"\n--- []",
            "directives",
            id="tags on odd lines",
        ),
    ],
)
def test_absurd_files_are_refused_quickly(content: bytes, why: str) -> None:
    started = time.perf_counter()
    with pytest.raises(NotAnIndex, match=why):
        parsed(content)
    assert time.perf_counter() - started < 5


def test_parsing_can_be_stopped() -> None:
    class Enough(Exception):
        pass

    def stop() -> None:
        raise Enough

    with pytest.raises(Enough):
        parse_index(b"- {name: a, uri: x, tags: [" + b"a," * 5000 + b"]}", GALLERY, checkpoint=stop)


@given(st.binary(max_size=200) | st.text(st.sampled_from("-{}[]:,&*!<>|'\"#%@ \nab~?"), max_size=60).map(str.encode))
def test_whatever_the_file_says_it_is_an_index_or_none(content: bytes) -> None:
    try:
        index = parsed(content)
    except NotAnIndex:
        return
    assert index.entries


# ---- entries made by hand


@pytest.mark.parametrize("fields", [{"name": "../x"}, {"alias": "a/b"}, {"uri": ""}, {"sha256": "x"}, {"mirrors": "x"}])
def test_no_entry_can_be_made_with_what_must_not_be(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidValue):
        IndexEntry(**{"gallery": GALLERY, "name": "a", "uri": "x", **fields})


def test_entries_can_be_keys_and_know_development_builds() -> None:
    entry = IndexEntry(gallery=GALLERY, name="cpu-x-development", uri="x", capabilities={"a": "b"})
    assert entry.is_development
    assert {entry: 1}[attrs.evolve(entry)] == 1
    assert not attrs.evolve(entry, name="cpu-x").is_development
