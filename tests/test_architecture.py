"""Who may import whom: the table in docs/architecture.md, read from there and held against every import."""

import ast
import re

from conftest import PROJECT_ROOT

ROW = re.compile(r"^\| `(?:utils/)?(\w+)` \| [^|]+ \| ([\w, ]*)\|$", flags=re.M)
MAP = {
    room: {name.strip() for name in allowed.split(",") if name.strip()}
    for room, allowed in ROW.findall((PROJECT_ROOT / "docs" / "architecture.md").read_text(encoding="utf-8"))
}
FILES = sorted([*(PROJECT_ROOT / "utils").rglob("*.py"), *(PROJECT_ROOT / "models").rglob("*.py")])


def room_of(parts):
    """The room of a module's dotted parts; None outside the project or for utils itself."""
    if parts[0] == "models":
        return "models"
    return parts[1] if parts[0] == "utils" and len(parts) > 1 else None


def imported_modules(tree):
    """Every module a file imports, at its top, inside functions and for type checkers alike."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the room"
            for alias in node.names:  # `from utils import latents` names a room too
                yield [*(node.module or "").split("."), alias.name]


def violations(room, source):
    found = {room_of(parts) for parts in imported_modules(ast.parse(source))} - {None, room}
    return sorted(found - MAP[room])


def test_every_room_is_on_the_map():
    rooms = {room_of(path.relative_to(PROJECT_ROOT).parts) for path in FILES} - {"__init__.py"}
    assert rooms <= MAP.keys()
    assert all(allowed <= MAP.keys() for allowed in MAP.values())


def test_the_map_has_no_circle():
    above = {name: set(allowed) for name, allowed in MAP.items()}
    while above:
        free = {name for name, allowed in above.items() if not allowed & above.keys()}
        assert free, f"these rooms import one another in a circle: {sorted(above)}"
        above = {name: allowed for name, allowed in above.items() if name not in free}


def test_every_import_is_on_the_map():
    wrong = {}
    for path in FILES:
        parts = path.relative_to(PROJECT_ROOT).parts
        if parts == ("utils", "__init__.py"):
            continue
        room = room_of(parts)
        forbidden = violations(room, path.read_text(encoding="utf-8"))
        if forbidden:
            wrong["/".join(parts)] = forbidden
    assert not wrong


def test_modules_inside_a_room_import_each_other_in_no_circle():
    edges = {}
    for path in FILES:
        parts = path.relative_to(PROJECT_ROOT).with_suffix("").parts
        tops = ast.parse(path.read_text(encoding="utf-8")).body
        names = {
            ".".join(p[:k]) for node in tops for p in imported_modules(node) for k in range(2, len(p) + 1)
        }
        edges[".".join(parts)] = names
    edges = {name: {other for other in names if other in edges} - {name} for name, names in edges.items()}
    while edges:
        free = {name for name, others in edges.items() if not others & edges.keys()}
        assert free, f"these modules import one another in a circle: {sorted(edges)}"
        edges = {name: others for name, others in edges.items() if name not in free}


def test_an_import_that_runs_back_up_is_seen():
    assert violations("core", "def f():\n    from utils.data.images import read_rgb\n") == ["data"]
    assert violations("features", "from utils import attribution\n") == ["attribution"]
    assert violations("latents", "from utils.core.log import log\nimport numpy\n") == []
