"""Pages from templates, with the style and scripts they carry inside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_FOLDER = Path(__file__).with_name("assets")


def render(template: str, own: str, **context: Any) -> str:
    """Fill a template; what it is given is escaped.

    Args:
        template: Its file name in ``assets/``.
        own: Stem of the style and the script that only this page has, beside those of all pages.
        context: What the template names.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    context["style"] = _texts(f"{name}.css" for name in ("page", own))
    context["script"] = _texts(f"{name}.js" for name in ("page", own))
    return environment.get_template(template).render(**context)


def _texts(names: Any) -> Any:
    from markupsafe import Markup

    paths = [_FOLDER / name for name in names]
    return Markup("".join(path.read_text(encoding="utf-8") for path in paths if path.exists()))
