"""What is read back from a file has a shape, written down as it looks and checked in one place.

A shape is

- a type: an instance of it (whole numbers pass for ``float``; True and False pass for ``bool`` alone),
- None: nothing,
- ``[shape]``: a list or tuple of such values,
- ``{"name": shape, "other?": shape}``: a mapping with these entries, perhaps those with a question mark, and any others,
- ``{type: shape}``: a mapping whose every name is of that type, and every value of that shape,
- a tuple of shapes: any one of them.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from utils.core.errors import UserError

Shape = Any


def mismatch(content: Any, shape: Shape, name: str = "it") -> str:
    """Say where content has another shape than expected; empty where it fits.

    Args:
        content: What was read.
        shape: What it has to look like, see the module.
        name: What the content is called, for the text.

    Returns:
        E.g. ``expected a list at meta/caveats, found nothing``.
    """
    if isinstance(shape, tuple):
        found = [mismatch(content, one, name) for one in shape]
        # of several that do not fit, the one that comes nearest (a mapping for a mapping) says most
        return "" if "" in found else next((text for text in found if f"at {name}," not in text), found[0])
    if isinstance(shape, dict):
        if not isinstance(content, Mapping):
            return _expected("named values", name, content)
        parts = _entries(content, shape, name)
        return next((text for text in parts if text), "")
    if isinstance(shape, list):
        if not isinstance(content, list | tuple):
            return _expected("a list", name, content)
        parts = (mismatch(one, shape[0], f"{name}[{number}]") for number, one in enumerate(content))
        return next((text for text in parts if text), "")
    return "" if _is_of(content, shape) else _expected(_in_words(shape), name, content)


def _entries(content: Mapping[Any, Any], shape: dict[Any, Shape], name: str) -> Any:
    """Yield what is wrong with each entry of a mapping, an empty text where nothing is."""
    inner = "" if name == "it" else f"{name}/"
    for key, one in shape.items():
        if isinstance(key, type):
            wrong = [other for other in content if not _is_of(other, key)]
            if wrong:
                yield f"expected names that are {_in_words(key)} in {name}, found {_shown(wrong[0])}"
            yield from (mismatch(value, one, f"{inner}{other}") for other, value in content.items())
            continue
        plain = key.removesuffix("?")
        if plain in content:
            yield mismatch(content[plain], one, f"{inner}{plain}")
        elif plain == key:
            listed = ", ".join(map(str, list(content)[:8])) or "nothing"
            yield f"expected {plain} in {name}, found {listed}"


def _is_of(content: Any, kind: type | None) -> bool:
    if kind is None:
        return content is None
    if isinstance(content, bool):
        return kind in (bool, object)
    return isinstance(content, (int, float) if kind is float else kind)


def _in_words(kind: type | None) -> str:
    words: dict[type | None, str] = {
        None: "nothing",
        str: "text",
        int: "a whole number",
        float: "a number",
        bool: "true or false",
    }
    return words.get(kind) or ("named values" if kind is dict else f"a {getattr(kind, '__name__', kind)}")


def _shown(content: Any) -> str:
    if isinstance(content, str | int | float):
        return f"{_in_words(type(content))} ({str(content)[:60]!r})"
    return "nothing" if content is None else f"a {type(content).__name__}"


def _expected(what: str, name: str, content: Any) -> str:
    return f"expected {what} at {name}, found {_shown(content)}"


def check_shape(content: Any, shape: Shape, path: Path | str, remedy: str) -> Any:
    """Refuse content of another shape than expected; else return it.

    Args:
        content: What was read.
        shape: What it has to look like, see the module.
        path: The file it came from.
        remedy: What to do about it, a sentence.

    Raises:
        UserError: Naming the file, the place in it, what was expected and what was found.
    """
    text = mismatch(content, shape)
    if text:
        raise UserError(f"{path} is not what it should be: {text}. {remedy}")
    return content
