"""Tables written to files of every format."""

import json

import pandas as pd
import pytest


@pytest.fixture
def write(tmp_path):
    """A function that writes rows in a format and returns the path as text."""

    def make(rows, suffix=".jsonl"):
        path = tmp_path / f"data{suffix}"
        if suffix == ".csv":
            pd.DataFrame(rows).to_csv(path, index=False)
        elif suffix == ".parquet":
            pd.DataFrame(rows).to_parquet(path)
        else:
            path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return str(path)

    return make


@pytest.fixture(params=[".jsonl", ".json", ".csv", ".parquet"])
def suffix(request):
    return request.param
