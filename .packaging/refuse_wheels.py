"""How pip and uv install this project: in place (editable), as a folder of scripts wants to be; never as a wheel.

The packages `models` and `utils` would stand in site-packages under names that belong to everybody, without the scripts,
the network in the box and the demo. A wheel is therefore refused with what to do instead.
"""

from setuptools import build_meta
from setuptools.build_meta import (  # noqa: F401
    build_editable,
    get_requires_for_build_editable,
    prepare_metadata_for_build_editable,
)

REFUSAL = (
    "This project runs from its own folder and is not installed as a wheel: its packages are called models and utils, which "
    "other projects use, too. Install it in place with\n\n    pip install -e . -c constraints.txt\n\n(or run it with: "
    "uv run python run_pipeline.py --demo; or: make demo)."
)


def get_requires_for_build_wheel(config_settings: object = None) -> list[str]:
    """Refuse at the first question, before gigabytes of requirements are downloaded."""
    raise SystemExit(f"\n{REFUSAL}\n")


def build_wheel(*arguments: object, **options: object) -> str:
    """Refuse, with what to do instead."""
    raise SystemExit(f"\n{REFUSAL}\n")


def build_sdist(sdist_directory: str, config_settings: object = None) -> str:
    """Make a source archive as setuptools does."""
    return build_meta.build_sdist(sdist_directory, config_settings)  # type: ignore[arg-type]
