"""No public function chooses on the caller's behalf what a guarantee is about."""

import ast
import inspect
import pkgutil
from importlib import import_module
from pathlib import Path

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


def defaults(source):
    """(name, default) of all parameters and fields in a source, private and nested ones too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.arguments):
            positional = [*node.posonlyargs, *node.args]
            yield from zip(reversed(positional), reversed(node.defaults), strict=False)
            yield from zip(node.kwonlyargs, node.kw_defaults, strict=True)
        elif isinstance(node, ast.AnnAssign) and node.value is not None:
            yield node.target, node.value


def relations_by_default(source):
    return [
        ast.unparse(name)
        for name, default in defaults(source)
        if default is not None and "Neighbouring." in ast.unparse(default)
    ]


def test_no_function_has_a_relation_by_default_private_ones_included():
    for path in Path(accountants.__file__).parent.rglob("*.py"):
        assert relations_by_default(path.read_text()) == [], path


def test_relations_by_default_are_found():
    assert relations_by_default("def f(a, b=Neighbouring.ADD_REMOVE): ...") == ["b"]
    assert relations_by_default("f = lambda *, n=Neighbouring.ZERO_OUT: n") == ["n"]
    assert relations_by_default("class A:\n    n: Neighbouring = Neighbouring.ADD_REMOVE") == ["n"]
    assert relations_by_default("def f(a, b=1, *, c, d=None): ...") == []


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
