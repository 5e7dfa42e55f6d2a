"""No public function chooses on the caller's behalf what a guarantee is about."""

import inspect
import pkgutil
from importlib import import_module

import pytest

import accountants

CHOICES = {"neighbouring", "delta", "epsilon", "unit", "budget"}


def public_functions():
    """All functions, methods and constructors with public names in all modules, by their names."""
    for module in pkgutil.walk_packages(accountants.__path__, "accountants."):
        if module.name == "accountants.__main__":
            continue
        for name, value in vars(import_module(module.name)).items():
            if name.startswith("_") or not str(getattr(value, "__module__", "")).startswith(
                "accountants"
            ):
                continue
            if inspect.isclass(value):
                yield from public_methods(value)
            elif callable(value):
                yield value.__name__, value


def public_methods(kind):
    yield kind.__name__, kind
    for name in vars(kind):
        if not name.startswith("_") and callable(getattr(kind, name)):
            yield f"{kind.__name__}.{name}", getattr(kind, name)


def parameters(function):
    try:
        return inspect.signature(function).parameters.values()
    except ValueError:  # of an exception, which takes anything
        return ()


def test_the_functions_of_the_package_are_found():
    names = {name for name, _ in public_functions()}
    wanted = {"epsilon", "is_within", "trajectory", "curve", "Ledger.reserve", "OnlineOdometer"}
    assert wanted <= names
    assert names > set(accountants.__all__) - {
        "ACCOUNTANT",
        "DISJOINT_RECORDS",
        "Event",
        "auditing",
        "selection",
        "tradeoff",
    }


@pytest.mark.parametrize("choice", sorted(CHOICES))
def test_no_choice_of_privacy_has_a_default(choice):
    found = {
        name
        for name, function in public_functions()
        for parameter in parameters(function)
        if parameter.name == choice and parameter.default is not inspect.Parameter.empty
    }
    assert found == set()


@pytest.mark.parametrize(
    "name",
    [
        "epsilon",
        "delta",
        "what_if",
        "noise_multipliers",
        "trajectory",
        "federation_epsilon",
        "shared_record_epsilon",
    ],
)
def test_the_relation_must_be_given(name):
    parameter = inspect.signature(getattr(accountants, name)).parameters["neighbouring"]
    assert parameter.default is inspect.Parameter.empty
