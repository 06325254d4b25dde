"""Imports point backwards: no circle of modules, and no private name crosses from one package into the other."""

import ast
import pathlib

import networkx as nx
import pytest

ROOT = pathlib.Path(__file__).parents[2]
PACKAGES = ["fieldtheory", "learners"]


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def modules(package):
    return {module_name(path): path for path in sorted((ROOT / package).rglob("*.py"))}


def at_import(tree):
    """Nodes that run when the module is imported: not those in functions or for type checkers."""
    for node in getattr(tree, "body", []):
        for_types = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not for_types:
            yield node
            yield from at_import(node)


def imported(name, path, nodes):
    """Absolute names of what `nodes` import, relative imports resolved."""
    home = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = home.split(".")[: len(home.split(".")) - node.level + 1] if node.level else []
            source = ".".join([*base, node.module] if node.module else base)
            yield from (f"{source}.{alias.name}" for alias in node.names)


def target(full, known):
    """The module a dotted name lives in."""
    while full and full not in known:
        full = full.rpartition(".")[0]
    return full


@pytest.mark.parametrize("package", PACKAGES)
def test_no_circle_of_imports(package):
    known = modules(package)
    graph = nx.DiGraph()
    for name, path in known.items():
        for full in imported(name, path, at_import(ast.parse(path.read_text()))):
            found = target(full, known)
            if found and found != name and found != package:
                graph.add_edge(name, found)
    assert len(graph.edges) > 10
    assert list(nx.simple_cycles(graph)) == []


def test_private_names_stay_in_their_package():
    """`from fieldtheory import _x`, `from fieldtheory._x import y` and `ft.module._x` alike."""
    for name, path in modules("learners").items():
        tree = ast.parse(path.read_text())
        nodes = list(ast.walk(tree))
        theirs = {full for full in imported(name, path, nodes) if full.split(".")[0] == "fieldtheory"}
        assert not [full for full in theirs if any(part.startswith("_") and part != "__version__" for part in full.split("."))], path
        aliases = {alias.asname or alias.name.split(".")[0] for node in nodes if isinstance(node, ast.Import)
                   for alias in node.names if alias.name.split(".")[0] == "fieldtheory"}
        reached = [node.attr for node in nodes if isinstance(node, ast.Attribute) and node.attr.startswith("_")
                   and node.attr != "__version__" and ast.unparse(node.value).split(".")[0] in aliases]
        assert not reached, (path, reached)


@pytest.mark.parametrize("package", PACKAGES)
def test_matplotlib_and_symbolic_algebra_are_loaded_where_they_are_needed(package):
    for name, path in modules(package).items():
        tops = {full.split(".")[0] for full in imported(name, path, at_import(ast.parse(path.read_text())))}
        assert not tops & {"matplotlib", "sympy", "pandas", "sklearn", "h5py"}, name
        assert package == "learners" or not tops & {"torch", "learners", "tqdm"}, name


def test_nothing_that_executes_what_it_reads():
    for package in PACKAGES:
        for name, path in modules(package).items():
            tree = ast.parse(path.read_text())
            calls = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
            assert not calls & {"eval", "exec", "torch.load", "pickle.load", "pickle.loads", "sympify", "sympy.sympify",
                                "parse_expr", "os.system"}, name
            assert not {full.split(".")[0] for full in imported(name, path, ast.walk(tree))} & {"pickle", "dill", "joblib"}, name
            assert not any(isinstance(node, ast.Assert) for node in ast.walk(tree)), f"{name}: an assert vanishes under -O"
