"""The shape of the source, held by tests: layers, sizes, names, docstrings, and a library that does not talk.

Every import counts, also those inside functions and below ``TYPE_CHECKING``: an import for a type is knowledge too.
"""

import ast
import configparser
import functools
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MOST_LINES = 450
MOST_LINES_OF_TESTS = 600

LAYERS = (
    "snapshots", "goexfs.policy", "goexfs.overlay", "goexfs.fuse", "goexfs.effects", "goexfs.session", "goexfs.views",
    "goexfs.secondlook", "goexfs.cli",
)  # fmt: skip
"""From the lowest to the highest; a module imports from its own layer and from lower ones."""

SHELVES = ("storage", "layers", "history", "review", "merging", "upkeep", "exchange")
"""The packages of ``snapshots``, in the same order; what lies beside them (entries, names, …) is below all."""
UPWARDS = {("snapshots.storage.store", "snapshots.history.logbook")}
"""A discard folds the log of a run, for its forks: the one import that goes up."""

BARRED = {
    "snapshots": ("goexfs", "click", "rich", "pyfuse3", "trio", "watchdog", "platformdirs"),
    "goexfs.policy": ("pyfuse3", "trio", "click", "rich", "sqlite3", "watchdog"),
    "goexfs.overlay": ("pyfuse3", "trio", "click", "rich", "sqlite3", "watchdog", "platformdirs"),
    "goexfs.fuse": ("sqlite3", "click", "rich", "platformdirs"),
    "goexfs.effects": ("pyfuse3", "trio", "click", "rich", "goexfs.fuse", "goexfs.overlay"),
    "goexfs.session": ("click", "sqlite3"),
    "goexfs.views": ("goexfs.overlay", "goexfs.fuse", "goexfs.session", "pyfuse3", "trio", "click", "rich"),
    "goexfs.secondlook": (
        "goexfs.overlay", "goexfs.fuse", "goexfs.session", "goexfs.views", "pyfuse3", "trio", "click", "rich",
        "sqlite3",
    ),
    "goexfs.cli": ("sqlite3", "pyfuse3", "trio"),
}
"""Libraries that a layer must not know, besides the layers above it."""

MODULE_NAME = re.compile(r"(snapshots|goexfs)(\.\w+)+")
JUNK_DRAWERS = {"helpers", "helper", "utils", "util", "common", "misc"}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {
    module_name(path): path for package in ("snapshots", "goexfs") for path in sorted((ROOT / package).rglob("*.py"))
}
ALL_FILES = sorted({*MODULES.values(), *(ROOT / "tests").rglob("*.py"), *(ROOT / "bench").rglob("*.py")})


@functools.cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_bytes(), str(path))


def imported(name: str) -> Iterator[tuple[int, str]]:
    """(line, absolute module) of every import in the module called ``name``, ``from a import b`` as ``a.b``."""
    path = MODULES[name]
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                yield node.lineno, f"{source}.{alias.name}"
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("import_module", "importlib.import_module"):
            for module in _computed(node.args[0], parsed(path)):
                yield node.lineno, module


def _computed(argument: ast.expr, tree: ast.Module) -> list[str]:
    """What ``import_module`` may import: of ``f"goexfs.cli.{name}"`` the package, of a variable all modules named."""
    if isinstance(argument, ast.JoinedStr):
        argument = argument.values[0]
    if isinstance(argument, ast.Constant):
        return [str(argument.value).rstrip(".")]
    constants = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    named = [text for text in constants if isinstance(text, str) and MODULE_NAME.fullmatch(text)]
    assert named, f"nobody can tell what {ast.unparse(argument)} imports"
    return named


def inside(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def layer_of(name: str) -> int | None:
    """Index in LAYERS; None for ``goexfs`` itself and for modules directly in it."""
    return next((index for index, layer in enumerate(LAYERS) if inside(name, layer)), None)


def test_there_is_something_to_check() -> None:
    assert {layer_of(name) for name in MODULES} >= set(range(len(LAYERS)))


@pytest.mark.parametrize("name", MODULES)
def test_imports_go_downwards_only(name: str) -> None:
    layer = layer_of(name)
    if name == "goexfs.__main__":
        barred: tuple[str, ...] = ()
    elif layer is None:  # goexfs itself, which re-exports the Python API, and what stands beside the layers
        barred = ("goexfs.cli", "click", "rich")
    else:
        barred = LAYERS[layer + 1 :] + BARRED[LAYERS[layer]]
    wrong = [f"{line}: {target}" for line, target in imported(name) if any(inside(target, each) for each in barred)]
    assert not wrong, f"{MODULES[name]} imports {wrong}"


@pytest.mark.parametrize("name", [name for name in MODULES if inside(name, "snapshots") and name != "snapshots"])
def test_the_library_has_an_order_of_its_own(name: str) -> None:
    shelf = name.split(".")[1]
    above = SHELVES[SHELVES.index(shelf) + 1 :] if shelf in SHELVES else SHELVES
    up = {
        ".".join(target.split(".")[:3]) for _, target in imported(name)
        if any(inside(target, f"snapshots.{each}") for each in above)
    }  # fmt: skip
    assert {(name, target) for target in up} <= UPWARDS


@pytest.mark.parametrize("name", [name for name in MODULES if inside(name, "snapshots")])
def test_the_library_does_not_talk(name: str) -> None:
    silent = {"print", "input", "exit", "quit", "breakpoint"}
    barred = {"sys.exit", "sys.stdout", "sys.stderr", "sys.stdin", "sys.argv", "os.environ", "os.environb", "os.getenv",
              "os.getenvb", "os._exit", "os.path.expanduser", "Path.home", "Path.expanduser"}  # fmt: skip
    wrong = []
    for node in ast.walk(parsed(MODULES[name])):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in silent:
            wrong.append(f"{node.lineno}: {node.func.id}()")
        elif isinstance(node, ast.Attribute) and ast.unparse(node) in barred:
            wrong.append(f"{node.lineno}: {ast.unparse(node)}")
    wrong += [f"{line}: {target}" for line, target in imported(name) if target in barred]
    assert not wrong, f"{MODULES[name]} talks: {wrong}"


@pytest.mark.parametrize("path", ALL_FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_file_shape(path: Path) -> None:
    lines = path.read_text().count("\n")
    most = MOST_LINES if path in MODULES.values() else MOST_LINES_OF_TESTS
    assert lines <= most, f"{path} has {lines} lines: split it by what it owns"
    assert not JUNK_DRAWERS & {part.strip("_") for part in path.relative_to(ROOT).with_suffix("").parts}
    stars = [
        node.lineno
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names)
    ]
    assert not stars, f"{path} has star imports in lines {stars}"


@pytest.mark.parametrize("name", MODULES)
def test_public_names_have_docstrings(name: str) -> None:
    tree = parsed(MODULES[name])
    missing = [] if ast.get_docstring(tree) else ["the module"]
    missing += _undocumented(tree, "")
    assert not missing, f"{MODULES[name]}: no docstring on {missing}"


def _undocumented(scope: ast.Module | ast.ClassDef, prefix: str) -> Iterator[str]:
    for node in scope.body:
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) or node.name.startswith("_"):
            continue
        marks = [ast.unparse(decorator) for decorator in node.decorator_list]
        if any(mark.endswith((".setter", "overload", "override")) for mark in marks):
            continue
        if not ast.get_docstring(node):
            yield f"{prefix}{node.name}"
        # What overrides a method of a library's class is documented there.
        if isinstance(node, ast.ClassDef) and not any(isinstance(base, ast.Attribute) for base in node.bases):
            yield from _undocumented(node, f"{prefix}{node.name}.")


def test_a_new_layer_breaker_would_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checks above can fail: a type-only import inside a function is enough."""
    breaker = tmp_path / "breaker.py"
    breaker.write_text("def f():\n    if TYPE_CHECKING:\n        from goexfs.cli import main\n")
    monkeypatch.setitem(MODULES, "snapshots.breaker", breaker)
    with pytest.raises(AssertionError, match=r"goexfs\.cli\.main"):
        test_imports_go_downwards_only("snapshots.breaker")


def test_every_library_that_is_imported_is_installed_with_the_package() -> None:
    """An environment for development has more: what another tool brought along must not be relied on."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    declared = {re.split(r"[ <>=!~;[]", line)[0] for line in config["options"]["install_requires"].split("\n") if line}
    optional = config["options.extras_require"]["postgresql"].split("\n")
    extra = {re.split(r"[ <>=!~;[]", line)[0] for line in optional if line}
    used = {source.partition(".")[0] for name in MODULES for _, source in imported(name)}
    assert used - set(sys.stdlib_module_names) - {"goexfs", "snapshots"} - extra == declared
