"""Every example in a docstring of the package runs and gives what it says."""

import doctest
import pkgutil
from importlib import import_module
from pathlib import Path

import pytest

import accountants

MODULES = [
    "accountants",
    *(module.name for module in pkgutil.walk_packages(accountants.__path__, "accountants.")),
]
WITHOUT_EXAMPLES_IS_FINE = {"accountants.__main__"}


@pytest.mark.parametrize("name", sorted(set(MODULES) - WITHOUT_EXAMPLES_IS_FINE))
def test_examples_in_docstrings(name):
    failed, _ = doctest.testmod(import_module(name))
    assert failed == 0


def test_examples_in_the_manual(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the manual makes a ledger
    manual = Path(accountants.__file__).parents[1] / "docs" / "accounting.md"
    failed, attempted = doctest.testfile(str(manual), module_relative=False)
    assert (failed, attempted > 8) == (0, True)


@pytest.mark.parametrize(
    "name", ["epsilon", "delta", "noise_multiplier", "steps_within", "what_if"]
)
def test_the_functions_that_users_start_with_have_examples(name):
    assert doctest.DocTestFinder().find(getattr(accountants, name))[0].examples
