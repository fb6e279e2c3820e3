"""Who may import whom: the directions of DESIGN, read from the source without running it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("searchspaces", "hwmodels", "predictors", "proxies", "nas")
MAY_IMPORT = {
    "searchspaces": set(),
    "hwmodels": {"searchspaces"},
    "predictors": {"searchspaces", "hwmodels"},
    "proxies": {"searchspaces", "hwmodels"},
    "nas": {"searchspaces", "hwmodels", "predictors", "proxies"},
}
TORCH_FILES = {"searchspaces/module.py", "searchspaces/fakequant.py"}  # the only ones below proxies


def imports(path: Path, top_level_only: bool = False) -> set[str]:
    """Top-level packages that a file imports; with `top_level_only`, those at import time."""
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level_only else ast.walk(tree)
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {name.name.split(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_imports_only_those_below_it(package):
    for path in (ROOT / package).rglob("*.py"):
        strange = imports(path) & set(PACKAGES) - MAY_IMPORT[package] - {package}
        assert not strange, f"{path.relative_to(ROOT)} imports {strange}"


@pytest.mark.parametrize("package", ["searchspaces", "hwmodels", "predictors"])
def test_torch_is_imported_by_the_module_files_alone(package):
    for path in (ROOT / package).rglob("*.py"):
        if str(path.relative_to(ROOT)) not in TORCH_FILES:
            assert "torch" not in imports(path), path


# Calls that may unpickle, and the argument with which they do not.
LOADERS = (("pickle.load", ""), ("torch.load(", "weights_only=True"), ("np.load(", "allow_pickle=False"), ("joblib", ""))


def test_nothing_unpickles():
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            text = path.read_text()
            for call, safe in LOADERS:
                assert text.count(call) == (text.count(safe) if safe else 0), f"{path.relative_to(ROOT)} calls {call}"


def loaded_after(statement: str) -> set[str]:
    code = f"{statement}; import sys; print(' '.join(m.split('.')[0] for m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(done.stdout.split())


def test_the_runtime_loads_no_torch_and_no_pandas():
    assert not loaded_after("import nas.runtime") & {"torch", "pandas", "cv2", "scipy", "onnxruntime"}


def test_the_command_line_loads_nothing_heavy_before_a_command():
    assert not loaded_after("import nas.cli") & {"torch", "numpy", "pandas", "cv2", "onnxruntime", "plotly", "matplotlib"}


def test_search_stays_a_function_whatever_is_imported_first():
    assert "nas" in loaded_after("import nas, nas.search.loop, nas.job; assert callable(nas.search)")
