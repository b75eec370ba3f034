"""The plan of the house: who may import whom, where SQL may stand, what may not be used."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FLOORS = ("lineage", "store", "scanners", "cli")
SOURCES = [path for floor in FLOORS for path in sorted((ROOT / floor).rglob("*.py"))]


def floor_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0]


def imported(path: Path) -> list[tuple[str, ...]]:
    """Every import of a file, as the path of the module from the repository root."""
    package = path.relative_to(ROOT).parent.parts
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [tuple(alias.name.split(".")) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            found.append((*base, *(node.module or "").split(".")))
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_never_point_back(path: Path) -> None:
    allowed = FLOORS[: FLOORS.index(floor_of(path)) + 1]
    for module in imported(path):
        if module and module[0] in FLOORS:
            assert module[0] in allowed, f"{path.name} imports {'.'.join(module)}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_that_executes_or_unpickles_is_imported(path: Path) -> None:
    for module in imported(path):
        assert module[:1] not in {("pickle",), ("marshal",), ("shelve",), ("dill",)}
    text = path.read_text(encoding="utf-8")
    for call in ("torch.load(", "eval(", "exec(", "trust_remote_code=True"):
        plain = text.replace("model.eval(", "").replace(".eval()", "")
        assert call not in plain, f"{path.name} calls {call}"


@pytest.mark.parametrize(
    "path", [p for p in SOURCES if floor_of(p) != "store"], ids=lambda p: str(p.relative_to(ROOT))
)
def test_only_the_store_speaks_sql(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            words = node.value.split()
            assert words[:1] not in (["SELECT"], ["INSERT"], ["UPDATE"], ["DELETE"]), path.name


@pytest.mark.parametrize(
    "path", [p for p in SOURCES if floor_of(p) == "lineage"], ids=lambda p: str(p.relative_to(ROOT))
)
def test_lineage_touches_no_file_socket_or_clock(path: Path) -> None:
    banned = {"socket", "duckdb", "aiohttp", "httpx", "requests", "time", "os", "pathlib"}
    for module in imported(path):
        assert module[0] not in banned, f"{path.name} imports {module[0]}"
