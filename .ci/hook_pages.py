"""Write what the reference pages of the hooks take from the code: `uv run python .ci/hook_pages.py`.

Each hook of trio_sup/hookspecs.py has a page, docs/reference/hooks/NAME.md. Between two marks it has what the code
says itself: signature and docstring of the hook, the protocol of what it offers, and the contract suite. What stands
around the marks is written by hand; it must have an example. The index, docs/reference/hooks.md, and the README list
the pages. A hook without a page gets one that lacks the example; tests ask for it, and for what is out of date.
"""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import attrs

from trio_sup import hookspecs, strategies
from trio_sup.testing import contracts

ROOT = Path(__file__).parent.parent
INDEX = ROOT / "docs" / "reference" / "hooks.md"
PAGES = INDEX.with_suffix("")

BEGIN, END = "<!-- made by .ci/hook_pages.py from the code -->", "<!-- end of what is made -->"
_MADE = re.compile(rf"^( *){BEGIN}\n.*?^ *{END}$", re.MULTILINE | re.DOTALL)
_SENTENCE_END = re.compile(r"(?<=[.!?]) (?=[A-Z`])")
_ITEM = re.compile(r"(\S[^:]*): (.*)", re.DOTALL)


def hooks() -> dict[str, Any]:
    """Every hook, by name, in the order of the file."""
    return {name: thing for name, thing in vars(hookspecs).items() if hasattr(thing, "trio_sup_spec")}


def page_of(hook: str) -> Path:
    """The page of the hook called *hook*."""
    return PAGES / f"{hook.removeprefix('trio_sup_')}.md"


def files() -> dict[Path, str]:
    """Every file that is made wholly or in part, and the text it should have."""
    wanted = {page_of(name): _with(_text_of(name), _page(name, hook)) for name, hook in hooks().items()}
    wanted[INDEX] = _with(INDEX.read_text(), _table())
    readme = ROOT / "README.md"
    wanted[readme] = _with(readme.read_text(), _links())
    return wanted


def _text_of(hook: str) -> str:
    page = page_of(hook)
    return page.read_text() if page.exists() else f"# `{hook}`\n\n{BEGIN}\n{END}\n\n## Example\n"


def _with(text: str, made: Iterable[str]) -> str:
    """*text* with the lines *made* between its marks, as far to the right as these."""

    def between(match: re.Match[str]) -> str:
        return "\n".join(match[1] + line if line else "" for line in (BEGIN, *made, END))

    assert _MADE.search(text), f"the marks are missing: {BEGIN} and {END}"
    return _MADE.sub(between, text)


# ---- the lists


def _table() -> Iterator[str]:
    yield ""
    yield "| hook | in short |"
    yield "| --- | --- |"
    for name, hook in hooks().items():
        first = next(_prose(inspect.getdoc(hook) or ""))
        yield f"| [`{name}`](hooks/{page_of(name).name}) | {first} |"
    yield ""


def _links() -> Iterator[str]:
    *names, last = hooks()
    for name in (*names, last):
        page = page_of(name)
        yield f"[{page.stem.replace('_', ' ')}]({page.relative_to(ROOT).as_posix()}){'.' if name == last else ','}"


# ---- a page


def _page(name: str, hook: Any) -> Iterator[str]:
    yield ""
    yield from _code(name + _signature(hook))
    yield ""
    yield from _documentation(hook)
    for cls in _shapes(hook):
        yield from ("", f"## `{cls.__name__}`", "")
        yield from _shape(cls)
    for suite in _suites(hook):
        yield from ("", f"## `{suite.__name__}`", "")
        yield f"The contract suite, from `{contracts.__name__}`."
        yield from _documentation(suite)
        yield from _checks(suite)
    yield ""


def _offered(hook: Any) -> list[type]:
    return [cls for cls in _named_in(str(inspect.signature(hook).return_annotation)) if _is_protocol(cls)]


def _shapes(hook: Any) -> list[type]:
    """The protocols that *hook* offers, then everything of `trio_sup.strategies` that they mention."""
    found = _offered(hook)
    for cls in found:  # grows meanwhile
        text = str(cls.__doc__) + "".join(f" {_signature(method)} {method.__doc__}" for _, method in _methods(cls))
        found += [each for each in _named_in(text) if each not in found]
    return found


def _named_in(text: str) -> list[type]:
    known = {name: thing for name, thing in vars(strategies).items() if isinstance(thing, type)}
    own = {name: thing for name, thing in known.items() if thing.__module__ == strategies.__name__}
    return [own[word] for word in dict.fromkeys(re.findall(r"\w+", text)) if word in own]


def _is_protocol(cls: type) -> bool:
    return bool(getattr(cls, "_is_protocol", False))


def _methods(cls: type) -> list[tuple[str, Any]]:
    if not _is_protocol(cls):
        return []
    return [
        (name, member)
        for name, member in vars(cls).items()
        if inspect.isfunction(member) and (not name.startswith("_") or name == "__call__")
    ]


def _shape(cls: type) -> Iterator[str]:
    text = list(_documentation(cls))
    if fields := [f"{name}: {kind}" for name, kind in _fields(cls)]:
        items_at = next((number for number, line in enumerate(text) if line.startswith("- ")), len(text))
        text[items_at:items_at] = [*([""] if items_at == len(text) else []), *_code(*fields), ""]
    yield from "\n".join(text).strip().split("\n")
    for name, method in _methods(cls):
        yield from ("", f"### `{name}`" if name != "__call__" else "### Called as", "")
        word = "async " if inspect.iscoroutinefunction(method) else ""
        yield from _code(word + (name if name != "__call__" else cls.__name__.lower()) + _signature(method))
        if method.__doc__:
            yield ""
            yield from _documentation(method)


def _fields(cls: type) -> Iterator[tuple[str, str]]:
    if attrs.has(cls):
        yield from ((field.name, str(field.type)) for field in attrs.fields(cls))
    elif _is_protocol(cls):
        for name, member in vars(cls).items():
            if isinstance(member, property):
                yield name, str(inspect.signature(member.fget).return_annotation)  # type: ignore[arg-type]  # it has one


def _signature(function: Any) -> str:
    signature = inspect.signature(function)
    parameters = [parameter for name, parameter in signature.parameters.items() if name != "self"]
    return str(signature.replace(parameters=parameters)).replace("'", "")


def _code(*lines: str) -> Iterator[str]:
    yield from ("```text", *lines, "```")


def _suites(hook: Any) -> list[type]:
    offered = {cls.__name__ for cls in _offered(hook)}
    suites: list[type] = [getattr(contracts, name) for name in contracts.__all__]
    return [suite for suite in suites if inspect.signature(suite.make).return_annotation in offered]  # type: ignore[attr-defined]  # every suite has it


def _checks(suite: type) -> Iterator[str]:
    """What the tests of *suite* say by their names, those that hold for strategies of all kinds first."""
    found: dict[str, Any] = {}
    for cls in reversed(suite.__mro__):
        found.update((name, test) for name, test in vars(cls).items() if name.startswith("test_"))
    yield from ("", "What it tests:", "")
    for name in found:
        test = next(vars(cls)[name] for cls in suite.__mro__ if vars(cls).get(name) is not None)
        promise = getattr(test, "_promise", None)
        yield f"- {name.removeprefix('test_').replace('_', ' ')}" + (
            f" (if `{promise}` is promised)" if promise else ""
        )


# ---- docstrings


def _documentation(thing: Any) -> Iterator[str]:
    """The docstring of *thing* as Markdown: one sentence a line, and its sections as lists."""
    text = inspect.getdoc(thing) or ""
    before = None
    for block in re.split(r"\n\n+|\n(?=[A-Z]\w+: )", text):
        head, _, body = block.partition("\n")
        section = head.removesuffix(":") if head in ("Args:", "Attributes:", "Returns:", "Raises:") else ""
        if before is not None and not (before and section):
            yield ""
        yield from _items(section, textwrap.dedent(body)) if section else _prose(block)
        before = section


def _items(section: str, body: str) -> Iterator[str]:
    entries = re.split(r"\n(?=\S)", body) if section != "Returns" else [body]
    for entry in entries:
        match = _ITEM.fullmatch(entry)
        if section == "Returns" or match is None:
            label, text = "returns", entry
        else:
            mark = "*" if section == "Args" else "`"
            names = [f"{mark}{name}{mark}" for name in match[1].split(", ")]
            label, text = ("raises " if section == "Raises" else "") + ", ".join(names), match[2]
        first, *more = _prose(text)
        yield f"- {label}: {first}"
        yield from (f"  {line}" for line in more)


def _prose(text: str) -> Iterator[str]:
    flowing = " ".join(text.split()).replace("``", "`")
    yield from _SENTENCE_END.split(re.sub(r"\[(`[^`]+`)\]\[[\w.]+\]", r"\1", flowing))


def main() -> None:
    PAGES.mkdir(exist_ok=True)
    for path, text in files().items():
        path.write_text(text)


if __name__ == "__main__":
    main()
