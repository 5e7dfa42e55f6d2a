"""An installed wheel works from another directory; a checkout would hide a file left out."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROBE = """
import accountants, privfed, privfed.cli.demo
from privfed.data.packaged import REQUIREMENTS
from privfed.reports.render import render_html
from jinja2 import Environment, PackageLoader
assert REQUIREMENTS.is_file()
PackageLoader("privfed.reports").get_source(Environment(), "budget.html.j2")
print(privfed.__file__)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder)]
    subprocess.run([*build, str(ROOT)], check=True, capture_output=True, timeout=120)
    return next(folder.glob("*.whl"))


def test_it_holds_both_packages_and_nothing_else(wheel):
    tops = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {"privfed", "accountants"} == {top for top in tops if not top.endswith(".dist-info")}


def test_it_holds_every_file_of_both_packages(wheel):
    folders = [ROOT / "accountants", ROOT / "privfed"]
    files = [path.relative_to(ROOT) for each in folders for path in each.rglob("*.*")]
    wanted = {path.as_posix() for path in files if "__pycache__" not in path.parts}
    missing = wanted - set(zipfile.ZipFile(wheel).namelist())
    assert {"accountants/py.typed", "privfed/py.typed", "privfed/__init__.pyi"} <= wanted
    assert missing == set()


def test_it_runs_from_another_directory(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    command = [sys.executable, "-c", PROBE]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip().startswith(str(tmp_path / "site"))
