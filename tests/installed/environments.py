"""Installs the wheel in bare environments, with the lowest and the newest versions, and runs it.

`make wheel`, or `python tests/installed/environments.py --help`. A line per environment; the exit
status is 1 if one of them failed. What the tests run with is pinned; whoever installs privfed gets
whatever the ranges of pyproject.toml allow on that day.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
REQUIREMENTS = [Requirement(line) for line in PROJECT["dependencies"]]
NEED_TORCH = {"torch", "opacus", "peft"}
"""Left out of an environment without torch: they would bring it."""
WITHOUT_TORCH = ("accountants", "privfed", "privfed.cli.main", "privfed.identity.roster")
WITHOUT_TORCH += ("privfed.parties.aggregator", "privfed.reports.assembling")
CUSTODIES = ("shared_key", "key_holder")
EPSILON = "--noise-multiplier 1 --sample-rate 0.01 --steps 1000 --delta 1e-5"


class Failed(Exception):
    """A command did not do what it must; the message has the end of what it printed."""


@dataclass(frozen=True, slots=True)
class Environment:
    """One Python with one choice of versions.

    Attributes:
        python: the interpreter that it is made from.
        lowest: whether direct dependencies are the lowest that there are in range, as wheels for
            this Python; the newest otherwise.
        torch: exact version instead of one from the range; None takes the range.
        bare: whether torch and what needs it are left out.
        folder: where it and all that it writes lie.
    """

    python: str
    lowest: bool
    torch: str | None
    bare: bool
    folder: Path

    @property
    def bin(self) -> Path:
        return self.folder / "environment/bin"

    @property
    def empty(self) -> Path:
        return self.folder / "empty"

    def run(self, *command, status=0):
        """What a command of the environment prints, in an empty folder far from the checkout.

        Raises:
            Failed: for another exit status, or a traceback.
        """
        program, *arguments = (str(word) for word in command)
        variables = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
        done = subprocess.run(
            [str(self.bin / program), *arguments],
            cwd=self.empty,
            env=variables
            | {"HOME": str(self.folder), "HF_HUB_OFFLINE": "1", "COLUMNS": "200"}
            | {f"PRIVFED_{name}": str(self.folder / name) for name in ("STATE", "ANCHORS")},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=1800,
        )
        if done.returncode != status or "Traceback" in done.stdout:
            end = "\n".join(done.stdout.splitlines()[-15:])
            raise Failed(f"{' '.join(map(str, command))}: status {done.returncode}\n{end}")
        return done.stdout

    def pip(self, *arguments):
        return self.run("python", "-m", "pip", "--disable-pip-version-check", *arguments)

    def install(self, wheel):
        """The wheel with its dependencies; nothing may be missing or of a wrong version."""
        self.empty.mkdir(parents=True)
        subprocess.run([self.python, "-m", "venv", str(self.bin.parent)], check=True)
        chosen = [self.wanted(each) for each in REQUIREMENTS if not self.leaves_out(each)]
        self.pip("install", *(["--only-binary", ":all:"] if self.lowest else []), *chosen)
        self.pip("install", *(["--no-deps"] if self.bare else []), wheel)
        told = self.run("python", "-m", "pip", "check", status=int(self.bare))
        absent = re.findall(r"^\S+ \S+ requires (\S+), which is not installed", told, re.M)
        if set(absent) != (NEED_TORCH if self.bare else set()) or "has requirement" in told:
            raise Failed(f"pip check: {told}")

    def leaves_out(self, requirement):
        return self.bare and requirement.name in NEED_TORCH

    def wanted(self, requirement):
        """What pip is asked for."""
        if requirement.name == "torch" and self.torch:
            return f"torch=={self.torch}"
        if not self.lowest:
            return str(requirement)
        listed = self.pip("index", "versions", requirement.name, "--only-binary", ":all:")
        found = re.search(r"Available versions: (.*)", listed)[1].split(", ")
        within = requirement.specifier.filter(Version(version) for version in found)
        return f"{requirement.name}=={min(within)}"

    def versions(self):
        names = sorted(each.name for each in REQUIREMENTS if not self.leaves_out(each))
        program = "import importlib.metadata as m, sys; " + (
            "print(*(f'{name} {m.version(name)}' for name in sys.argv[1:]), sep=', ')"
        )
        return self.run("python", "-c", program, *names).strip()


def must_hold(text, wanted):
    if wanted not in text:
        raise Failed(f"{wanted!r} is not in\n{text}")


def use_programs(at):
    """Help, a wrong option, identities and a roster, an epsilon: none of it needs torch."""
    at.run("python", "-c", f"import {', '.join(WITHOUT_TORCH)}")
    for command in ("demo", "run", "report", "key-holder", "roster"):
        must_hold(at.run("privfed", "--help"), f" {command} ")
        must_hold(at.run("privfed", command, "--help"), "Usage: ")
    must_hold(at.run("privfed", "demo", "--bogus", status=2), "--bogus")
    must_hold(at.run("privfed", "roster", "identity", "a", "--role", "boss", status=2), "boss")
    for name, role in [("north", "client"), ("relay", "aggregator"), ("ministry", "authority")]:
        at.run("privfed", "roster", "identity", name, "--role", role, "--out", name)
    parties = [f"{name}.party.json" for name in ("north", "relay")]
    signed = ("--federation", "letters", "--authority", "ministry", "--out", "roster")
    at.run("privfed", "roster", "sign", *parties, *signed)
    shown = at.run("privfed", "roster", "show", "roster", "--authority", "ministry.party.json")
    must_hold(shown, "The signature is the authority's.")
    asked = [*EPSILON.split(), "--neighbouring", "add_remove"]
    must_hold(at.run("python", "-m", "accountants", "epsilon", *asked), "at most 1.8284")


def use_federations(at):
    """Small runs in both custodies, from a configuration to a checked report."""
    at.run("python", "-I", HERE / "letters.py")
    text = (HERE / "letters.toml").read_text(encoding="utf-8")
    for custody in CUSTODIES:
        config = at.empty / f"{custody}.toml"
        config.write_text(text.replace("CUSTODY", custody))
        must_hold(at.run("privfed", "run", config, "--out", custody), "report: ")
        must_hold(at.run("privfed", "report", custody), "north: epsilon ")


def use_ledger(at, run):
    """What a run left, which may have been made in another environment."""
    ledger = run / "ledgers/north.json"
    at.run("python", "-m", "accountants", "verify", ledger)
    told = at.run("python", "-m", "accountants", "epsilon", "--ledger", ledger, "--delta", "1e-4")
    must_hold(told, "at most 2.9")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("python", nargs="*", help="interpreters; default: this one")
    parser.add_argument("--torch", metavar="VERSION", help="exact, instead of one from the range")
    parser.add_argument(
        "--without-torch",
        metavar="PYTHON",
        action="append",
        default=[],
        help="an interpreter where only what needs no torch is tried; may be repeated",
    )
    parser.add_argument("--resolution", choices=("lowest", "newest"), help="default: both")
    return parser.parse_args()


def main():
    asked = arguments()
    resolutions = [asked.resolution] if asked.resolution else ["lowest", "newest"]
    own = [] if asked.without_torch else [sys.executable]
    pythons = [(python, False) for python in asked.python or own]
    pythons += [(python, True) for python in asked.without_torch]
    failed = False
    with tempfile.TemporaryDirectory(prefix="privfed-wheel-") as name:
        # The wheel is built from the source distribution, which so is shown to build.
        build = [sys.executable, "-m", "build", "--outdir", f"{name}/dist", str(ROOT)]
        built = subprocess.run(build, capture_output=True, text=True)
        if built.returncode:
            sys.exit(built.stdout + built.stderr)
        (wheel,) = Path(name, "dist").glob("*.whl")
        run = None
        combinations = [(*each, which) for each in pythons for which in resolutions]
        for number, (python, bare, which) in enumerate(combinations):
            at = Environment(python, which == "lowest", asked.torch, bare, Path(name, str(number)))
            try:
                at.install(wheel)
                use_programs(at)
                if not bare:
                    use_federations(at)
                    run = at.empty / CUSTODIES[0]
                if run:
                    use_ledger(at, run)
                told = f"ok      {at.versions()}"
            except Failed as error:
                failed = True
                told = f"FAILED  {error}"
            print(f"{python} {which:6} {'without torch ' if bare else ''}{told}", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
