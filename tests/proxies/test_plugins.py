"""Proxies of other distributions: found by entry point, reported by name where they do not load."""

import os
import shutil
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from proxies import BUILT_IN, PROXIES, ProxyError, catalog, find, plugins, score
from proxies.core import GROUP

EXAMPLE = Path(__file__).with_name("example_plugin")


def point(name: str, value: str) -> EntryPoint:
    return EntryPoint(name, value, GROUP)


@pytest.fixture
def on_path(monkeypatch):
    def put(folder: Path) -> None:
        monkeypatch.syspath_prepend(str(folder))

    yield put
    sys.modules.pop("edgenas_example_proxy", None)


def test_the_example_package_installs_and_its_proxy_joins_the_catalog(tmp_path, on_path, tiny, small_probe):
    pytest.importorskip("setuptools", reason="building the example package offline needs setuptools in this environment")
    source = shutil.copytree(EXAMPLE, tmp_path / "source")  # the build writes beside its sources
    target = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-index", "--no-deps"]
    done = subprocess.run([*pip, "--no-build-isolation", "--target", str(target), str(source)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    on_path(target)
    found, _ = plugins()
    assert score(find("grad_peak", catalog(*BUILT_IN.values(), *found)), tiny(), small_probe).number() > 0

    # A process that imports the plug-in before the package must see the same table.
    code = "import edgenas_example_proxy, proxies; print(*proxies.PROXIES)"
    paths = os.pathsep.join([str(target), str(Path(__file__).parents[2])])
    seen = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": paths})
    assert {*BUILT_IN, "grad_peak"} <= set(seen.stdout.split())


def test_a_plugin_that_does_not_load_is_reported_and_the_others_stay(on_path):
    on_path(EXAMPLE)
    good = point("grad_peak", "edgenas_example_proxy:grad_peak")
    found, broken = plugins([point("gone", "no_such_module:x"), good, point("plain", "math:sqrt")])
    assert [item.name for item in found] == ["grad_peak"]
    assert "no_such_module" in broken["gone"]
    assert "decorated with @proxy" in broken["plain"]
    with pytest.raises(ProxyError, match="plug-in proxy 'gone' does not load: no_such_module"):
        find("gone", PROXIES, broken)


def test_a_plugin_under_a_taken_name_raises_naming_both_files(on_path):
    on_path(EXAMPLE)
    found, _ = plugins([point("grad_peak", "edgenas_example_proxy:grad_peak")])
    with pytest.raises(ProxyError, match=r"'grad_peak'.*edgenas_example_proxy\.py.*edgenas_example_proxy\.py"):
        catalog(*found, *found)
