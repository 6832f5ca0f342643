"""What docs/security.md promises of all modules, read off their syntax trees."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
PACKAGES = ("hpsearch", "search_spaces", "trials", "deploy")
MODULES = sorted(path for package in PACKAGES for path in (REPOSITORY / package).rglob("*.py"))
FORBIDDEN_IMPORTS = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
FORBIDDEN_CALLS = {"eval", "exec", "os.system", "os.popen", "torch.load", "yaml.unsafe_load", "yaml.full_load"}


def broken_promises(source: str) -> list[str]:
    """What a module does that none may."""
    return [found for node in ast.walk(ast.parse(source)) for found in _broken(node)]


def _broken(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names if alias.name.split(".")[0] in FORBIDDEN_IMPORTS)
    elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in FORBIDDEN_IMPORTS:
        yield node.module or ""
    elif isinstance(node, ast.Call):
        name = ast.unparse(node.func)
        options = {option.arg: ast.unparse(option.value) for option in node.keywords}
        if name in FORBIDDEN_CALLS:
            yield name
        if name == "yaml.load" and options.get("Loader") != "StrictLoader":
            yield name
        if options.get("shell", "False") != "False" or options.get("allow_pickle", "False") != "False":
            yield f"{name} {options}"
        if name.endswith("read_pickle"):
            yield name


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_no_module_reads_code_or_uses_a_shell(module: Path) -> None:
    assert broken_promises(module.read_text()) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from cloudpickle import loads",
        "eval(text)",
        "torch.load(file)",
        "yaml.load(file, Loader=yaml.Loader)",
        "yaml.load(file, yaml.Loader)",
        "subprocess.run(command, shell=True)",
        "np.load(file, allow_pickle=True)",
        "pd.read_pickle(file)",
    ],
)
def test_a_broken_promise_is_seen(source: str) -> None:
    assert len(broken_promises(source)) == 1
