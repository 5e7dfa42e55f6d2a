"""Copies of small models, changed as a test asks for."""

import json
import shutil

import pytest
from safetensors.torch import load_file, save_file

from tests.unit.privfed.models.saved_models import FILE


@pytest.fixture
def changed(tmp_path):
    """A copy of a model's folder with other weights or another configuration."""

    def make(folder, weights=lambda found: found, **settings):
        copy = tmp_path / f"copy-{len(list(tmp_path.iterdir()))}"
        shutil.copytree(folder, copy)
        save_file(weights(load_file(copy / FILE)), copy / FILE, metadata={"format": "pt"})
        config = json.loads((copy / "config.json").read_text())
        (copy / "config.json").write_text(json.dumps({**config, **settings}))
        return str(copy)

    return make
