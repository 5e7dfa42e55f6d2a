"""The commands of docs/between-organisations.md as they stand there, in a folder for each party."""

import json
import os
import random
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.end_to_end.machines import free_port

pytest.importorskip("flwr", reason="runs between machines need the extra privfed[flower]")

PAGE = Path(__file__).parents[2] / "docs/between-organisations.md"
BLOCK = re.compile(r"^```(console|toml)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PARTIES = ("ministry", "hub", "north", "south", "west")
RUNS_ON = "# runs until the run is over"
WORDS = {
    "cardiology": ("heart", "valve", "pulse"),
    "neurology": ("nerve", "tremor", "brain"),
    "oncology": ("tumour", "cells", "biopsy"),
    "surgery": ("stitch", "scalpel", "wound"),
}


class Page:
    """What a reader does.

    Args:
        folder: in which every party has one.
        model: folder with the base model.
    """

    def __init__(self, folder, model):
        self.folder, self.port = folder, free_port()
        self.given = {}
        self.running = []
        for party in PARTIES:
            (folder / party).mkdir()
        for party in ("ministry", "north", "south", "west"):
            shutil.copytree(model, folder / party / "model")
        self._write("ministry/held-out.jsonl", 20, seed=1)
        for seed, party in enumerate(("north", "south", "west"), 2):
            self._write(f"{party}/letters.jsonl", 60 + seed, seed=seed)

    def _write(self, path, count, *, seed):
        choose = random.Random(seed)
        with (self.folder / path).open("w") as file:
            for number in range(count):
                department = choose.choice(sorted(WORDS))
                words = [str(seed), str(number), *choose.choices(WORDS[department], k=2)]
                print(json.dumps({"text": " ".join(words), "department": department}), file=file)

    def fitted(self, text):
        """The text with what a reader fills in, and small enough for a test."""
        for name, value in self.given.items():
            text = text.replace(name, value)
        text = text.replace("hub.example.org:8443", f"127.0.0.1:{self.port}")
        text = text.replace("hub.example.org", "127.0.0.1").replace(":8443", f":{self.port}")
        text = re.sub(r"^max_length = \d+", "max_length = 12", text, flags=re.MULTILINE)
        text = re.sub(r"^rounds = \d+", "rounds = 2", text, flags=re.MULTILINE)
        return re.sub(r"^min_clients = \d+", "min_clients = 3", text, flags=re.MULTILINE)

    def write(self, block):
        """A file, which its first line names."""
        name = block.splitlines()[0].removeprefix("# ")
        (self.folder / name).write_text(self.fitted(block))

    def type(self, block):
        """The commands of a block, one after the other; or beside what follows."""
        lines = block.splitlines()
        stays = lines[0].startswith(RUNS_ON)
        for line in lines:
            if line and not line.startswith("#"):
                party, _, command = line.partition("$ ")
                self._command(party, self.fitted(command), stays=stays)

    def _command(self, party, command, *, stays):
        words = shlex.split(command)
        if words[0] == "privfed":
            words = [sys.executable, "-m", "privfed", *words[1:]]
        common = {"cwd": self.folder / party, "env": {**os.environ, "OMP_NUM_THREADS": "1"}}
        if stays:
            with (self.folder / party / "printed.txt").open("w") as printed:
                self.running.append(
                    (party, subprocess.Popen(words, stdout=printed, stderr=printed, **common))
                )
            return
        self._wait_if_needed(command)
        done = subprocess.run(words, capture_output=True, text=True, check=False, **common)
        assert done.returncode == 0, (party, command, done.stdout, done.stderr)
        if found := re.search(r"public key: (\w{64})", done.stdout):
            self.given["AUTHORITY"] = found[1]
        if found := re.search(r"agreement: SHA-256 (\w{64})", done.stdout):
            self.given["AGREEMENT"] = found[1]

    def _wait_if_needed(self, command):
        """A report is there once all that runs has ended."""
        deadline = time.monotonic() + 200
        while "report" in command and any(one.poll() is None for _, one in self.running):
            assert time.monotonic() < deadline, self.printed()
            time.sleep(0.2)
        if "report" in command:
            assert [one.returncode for _, one in self.running] == [0] * 4, self.printed()

    def printed(self):
        return {p: (self.folder / p / "printed.txt").read_text()[-1500:] for p, _ in self.running}

    def close(self):
        for _, process in self.running:
            if process.poll() is None:
                process.terminate()
                process.wait(20)


def test_the_page_can_be_typed(tmp_path, bert_folder):
    page = Page(tmp_path, bert_folder)
    try:
        for kind, block in BLOCK.findall(PAGE.read_text()):
            (page.write if kind == "toml" else page.type)(block)
        assert len(page.running) == 4
    finally:
        page.close()
    for name in ("north", "south", "west"):
        report = json.loads((tmp_path / name / f"results-{name}/report.json").read_text())
        assert (report["status"], report["rounds_over"]) == ("complete", 2)
    report = json.loads((tmp_path / "hub/runs/run/report.json").read_text())
    assert [row["id"] for row in report["clients"]] == ["north", "south", "west"]
