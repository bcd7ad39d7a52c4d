"""The house rules that a machine can check. Layers are import-linter's, sorted `__all__` and prints are ruff's too."""

import ast
import importlib
import importlib.metadata
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import diffclass

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "diffclass"
SOURCES = sorted(PACKAGE.rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))

FILE_LINES = 400
FUNCTION_LINES = 50
AXES = {
    *("image", "class", "draw", "channel", "height", "width", "batch"),
    *("group", "view", "prompt", "block", "component"),
}
ARRAY_TYPES = {"Bool", "Complex", "Float", "Float16", "Float32", "Float64", "Inexact", "Int", "Int32", "Int64"} | {
    *("Integer", "Num", "Real", "Shaped", "UInt8"),
}
HEAVY = ("torch", "numpy", "scipy", "sklearn", "diffusers", "matplotlib", "pyarrow", "skimage")
MACHINE_PATH = re.compile(r"(?<![\w./~$}])/(?:home|root|work|Users|mnt)/\w")


def name_of(path: Path) -> str:
    """Name a file in a test's id."""
    return path.relative_to(ROOT).as_posix()


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def public_definitions(tree: ast.Module) -> set[str]:
    """Classes and functions that a module defines without a leading underscore."""
    kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in tree.body if isinstance(node, kinds) and not node.name.startswith("_")}


def exported(tree: ast.Module) -> list[str] | None:
    """`__all__` of a module, or None where it has none."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets):
            return ast.literal_eval(node.value)
    return None


def is_private(path: Path) -> bool:
    return any(part.startswith("_") and part != "__init__.py" for part in path.relative_to(PACKAGE).parts)


every_source = pytest.mark.parametrize("path", SOURCES, ids=name_of)
every_file = pytest.mark.parametrize("path", SOURCES + TESTS, ids=name_of)


# Size and names


@every_file
def test_files_are_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= FILE_LINES


@every_file
def test_functions_are_short(path: Path) -> None:
    too_long = []
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            lines = node.end_lineno - node.lineno + 1
            if ast.get_docstring(node, clean=False) is not None:
                docstring = node.body[0]
                assert docstring.end_lineno is not None
                lines -= docstring.end_lineno - docstring.lineno + 1
            if lines > FUNCTION_LINES:
                too_long.append(f"{node.name}: {lines} lines")
    assert not too_long


def test_no_module_is_a_drawer_for_everything() -> None:
    banned = {"utils", "util", "common", "helpers", "helper", "misc"}
    assert not [name_of(path) for path in SOURCES + TESTS if {path.stem, *path.relative_to(ROOT).parts} & banned]


@every_file
def test_annotations_are_evaluated(path: Path) -> None:
    # jaxtyping checks nothing on dataclasses under `from __future__ import annotations`.
    imports = [node for node in ast.walk(tree_of(path)) if isinstance(node, ast.ImportFrom)]
    assert not [node.lineno for node in imports if node.module == "__future__"]


@every_source
def test_library_does_not_print(path: Path) -> None:
    if path.relative_to(PACKAGE).parts[0] == "cli":
        return
    calls = [node for node in ast.walk(tree_of(path)) if isinstance(node, ast.Call)]
    assert not [call.lineno for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print"]


# Public names


@pytest.mark.parametrize("path", [p for p in SOURCES if not is_private(p) and p.name != "__init__.py"], ids=name_of)
def test_modules_export_what_they_define(path: Path) -> None:
    tree = tree_of(path)
    names = exported(tree)
    assert names is not None, "a public module needs __all__"
    assert public_definitions(tree) <= set(names)
    module = importlib.import_module(".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts))
    assert not [name for name in names if not hasattr(module, name)]


@pytest.mark.parametrize("path", [p for p in SOURCES if p.name == "__init__.py" and p.parent != PACKAGE], ids=name_of)
def test_packages_export_what_they_import(path: Path) -> None:
    tree = tree_of(path)
    imported = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("diffclass.")
        for alias in node.names
    }
    names = exported(tree)
    if names is None:
        assert not imported, "a package that imports names needs __all__"
        return
    defined = public_definitions(tree)
    assert (defined or {name for name in imported if not name.startswith("_")}) <= set(names)
    module = importlib.import_module(".".join(path.parent.relative_to(PACKAGE.parent).parts))
    assert not [name for name in names if not hasattr(module, name)]


@pytest.mark.parametrize("name", diffclass.__all__)
def test_top_level_names_exist(name: str) -> None:
    assert getattr(diffclass, name) is not None
    assert name in dir(diffclass)


def test_unknown_top_level_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'diffclass' has no attribute 'Nothing'"):
        diffclass.Nothing  # noqa: B018


def test_version_has_one_source() -> None:
    assert importlib.metadata.version("diffclass") == diffclass.__version__


# Shapes


def axis_strings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and axis string of every jaxtyping annotation, such as the second part of Float[Tensor, " draw"]."""
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Tuple) and len(node.slice.elts) == 2):
            continue
        kind = node.value.attr if isinstance(node.value, ast.Attribute) else getattr(node.value, "id", None)
        axes = node.slice.elts[1]
        if kind in ARRAY_TYPES and isinstance(axes, ast.Constant) and isinstance(axes.value, str):
            yield node.lineno, axes.value


@every_file
def test_axes_have_house_names(path: Path) -> None:
    strings = list(axis_strings(tree_of(path)))
    foreign = [(line, axis) for line, axes in strings for axis in re.findall(r"[A-Za-z]\w*", axes) if axis not in AXES]
    assert not foreign, f"axis names are {', '.join(sorted(AXES))}"
    # A lone name without the space would be read as a forward reference by other tools.
    assert not [(line, axes) for line, axes in strings if axes.isidentifier()]


def test_axis_strings_are_found() -> None:
    source = 'x: Float[Tensor, "batch _ _"]\ny: jaxtyping.Int[ndarray, " draw"]\nz: dict[str, "batch"]'
    assert list(axis_strings(ast.parse(source))) == [(1, "batch _ _"), (2, " draw")]


# Classes and formulas


def library_classes() -> dict[str, ast.ClassDef]:
    nodes = (node for path in SOURCES for node in tree_of(path).body)
    return {node.name: node for node in nodes if isinstance(node, ast.ClassDef)}


def bases(node: ast.ClassDef) -> set[str]:
    return {ast.unparse(base).split("[")[0].split(".")[-1] for base in node.bases}


def ancestors(name: str, classes: dict[str, ast.ClassDef]) -> set[str]:
    """Every class of the library that a class inherits from."""
    above = bases(classes[name]) & classes.keys()
    return above.union(*(ancestors(base, classes) for base in above))


def test_concrete_classes_are_not_subclassed() -> None:
    classes = library_classes()
    in_errors = public_definitions(tree_of(PACKAGE / "errors.py"))
    inherited = {(name, base) for name, node in classes.items() for base in bases(node) if base in classes}
    assert ("EDM", "Parametrisation") in inherited
    abstract = {name for name, node in classes.items() if name.startswith("_") or bases(node) & {"ABC", "Protocol"}}
    assert not {(name, base) for name, base in inherited if base not in abstract | in_errors}


def has_source(node: ast.ClassDef | ast.FunctionDef) -> bool:
    return re.search(r"^Source:$", ast.get_docstring(node) or "", re.MULTILINE) is not None


def test_formulas_name_their_source() -> None:
    classes = library_classes()
    families = {"Parametrisation", "Target", "Weight"}
    parts = {name for name in classes if not name.startswith("_") and ancestors(name, classes) & families}
    assert {"EDM", "V", "LikelihoodWeight", "NoisedExact"} <= parts
    nodes: list[ast.ClassDef | ast.FunctionDef] = [classes[name] for name in parts]
    for path in sorted((PACKAGE / "stats").glob("[!_]*.py")):
        definitions = (node for node in tree_of(path).body if isinstance(node, ast.ClassDef | ast.FunctionDef))
        nodes += [node for node in definitions if not node.name.startswith("_")]
    assert not sorted(node.name for node in nodes if not has_source(node))


# Imports


def heavy_imports(code: str) -> list[str]:
    """Run code in a fresh interpreter and list the heavy libraries that it imported."""
    probe = f"{code}\nimport sys\nprint('HEAVY', *(m for m in {HEAVY!r} if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1].split()[1:]


def test_importing_diffclass_imports_nothing_heavy() -> None:
    assert heavy_imports("import diffclass") == []


def test_heavy_imports_are_seen() -> None:
    assert heavy_imports("import numpy") == ["numpy"]


def test_help_of_every_verb_imports_nothing_heavy() -> None:
    code = """
import click
from click.testing import CliRunner
from diffclass.cli import main
assert isinstance(main, click.Group)
for arguments in [[], *([verb] for verb in main.list_commands(click.Context(main)))]:
    result = CliRunner().invoke(main, [*arguments, "--help"])
    assert result.exit_code == 0, (arguments, result.output, result.exception)
    assert "Usage" in result.output
"""
    assert heavy_imports(code) == []


def test_layers_go_down() -> None:
    lint_imports = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run(
        [lint_imports, "--no-logo", "--no-cache"], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stdout


# The repository


def repository_files() -> list[Path]:
    """Files that are or would be committed."""
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(listing, capture_output=True, text=True, cwd=ROOT, check=False)
    if done.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in done.stdout.splitlines() if (ROOT / name).is_file()]


def test_no_machine_paths() -> None:
    found = []
    for path in repository_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # weights and pictures
        found += [f"{name_of(path)}: {match.group()}" for match in MACHINE_PATH.finditer(text)]
    assert not found


def test_machine_paths_are_recognised() -> None:
    folders = ("home", "work", "Users")
    assert all(MACHINE_PATH.search(f"open('/{folder}/someone/file')") for folder in folders)
    assert not MACHINE_PATH.search("https://example.org/home/page, ../work/x and docs/home/x")


def test_test_files_have_names_of_their_own() -> None:
    names = [path.name for path in TESTS]
    assert [name for name in names if names.count(name) > 1] == []  # pytest imports each by its name alone
