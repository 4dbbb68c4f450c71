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


MOST_LINES = {"file": 500, "script": 250, "function": 50}
REASON = re.compile(r"#\s*long: \w")
SHIPPED = sorted([*FILES, *PROJECT_ROOT.glob("*.py")])


def too_long(path, source):
    """What is longer than it should be without a comment ``# long: why`` in its first line."""
    lines = source.splitlines()
    kind = "script" if path.parent == PROJECT_ROOT else "file"
    if len(lines) > MOST_LINES[kind] and not REASON.search("\n".join(lines[:12])):
        yield f"{path.name}: {len(lines)} lines"
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0]
            told = ast.get_docstring(node, clean=False)
            length = node.end_lineno - node.lineno + 1 - (first.end_lineno - first.lineno + 1 if told else 0)
            if length > MOST_LINES["function"] and not REASON.search(lines[node.lineno - 1]):
                yield f"{path.name}: {node.name} has {length} lines beside its docstring"


def test_files_and_functions_are_short_or_say_why_not():
    found = [text for path in SHIPPED for text in too_long(path, path.read_text(encoding="utf-8"))]
    assert found == []


def test_a_long_function_is_seen_and_a_reason_is_heard():
    body = "    x = 1\n" * 51
    assert list(too_long(PROJECT_ROOT / "a.py", f"def f():\n{body}")) == [
        "a.py: f has 52 lines beside its docstring"
    ]
    assert not list(too_long(PROJECT_ROOT / "a.py", f"def f():  # long: a table of flags\n{body}"))
    assert not list(too_long(PROJECT_ROOT / "a.py", f'def f():\n    """{body}"""\n    return 1\n'))
    assert list(too_long(PROJECT_ROOT / "a.py", "x = 1\n" * 251)) == ["a.py: 251 lines"]
    assert not list(too_long(PROJECT_ROOT / "utils" / "a.py", "x = 1\n" * 251))
