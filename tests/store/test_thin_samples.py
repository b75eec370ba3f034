"""The cache of thin samples: what is written is read, and what is damaged is no error."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
from families import WIDE, fresh, published, specimen_of
from hypothesis import given, settings
from hypothesis import strategies as st

from modelkin.lineage.errors import RegistryError
from modelkin.lineage.infer.neighbours import thin_sample
from modelkin.store.thin_samples import ThinRow, ThinSampleStore


@cache
def rows() -> dict[str, ThinRow]:
    """Two models of one shape and one of another, as a mixed bucket may hold."""
    models = {"a": fresh(1), "b": fresh(2), "c": fresh(3, WIDE)}
    thin = {name: thin_sample(specimen_of(name, published(w))) for name, w in models.items()}
    return {
        f"{name}" * 64: ThinRow(sample, name == "b", name == "c") for name, sample in thin.items()
    }


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    store, kept = ThinSampleStore(tmp_path / "thin"), rows()
    assert store.load("shape") == {}
    store.save("shape", kept)
    back = store.load("shape")
    assert back.keys() == kept.keys()
    for digest, (sample, lossy, packed) in back.items():
        assert (lossy, packed) == kept[digest][1:]
        assert sample.places == kept[digest].sample.places
        assert sample.floors == kept[digest].sample.floors
        assert sample.weights.keys() == kept[digest].sample.weights.keys()
        for name, values in sample.weights.items():
            assert np.array_equal(values, kept[digest].sample.weights[name])
    assert store.load("another shape") == {}


@settings(deadline=None, max_examples=40)
@given(cut=st.floats(0, 1), noise=st.binary(max_size=40))
def test_a_damaged_file_is_whole_or_as_good_as_none(
    tmp_path_factory: pytest.TempPathFactory, cut: float, noise: bytes
) -> None:
    store = ThinSampleStore(tmp_path_factory.mktemp("thin"))
    store.save("shape", rows())
    (path,) = store._folder.iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[: int(cut * (len(whole) - 1))] + noise)
    # An archive may bear a scar at its very end; its members are checked by their CRC.
    assert store.load("shape").keys() in (set(), rows().keys())


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RegistryError, match="cannot write"):
        ThinSampleStore(tmp_path / "file" / "thin").save("shape", rows())
