"""The GPU benchmark runs, small and without a GPU, and says that it measured none."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from tiny_chat import one_thread

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "benchmarks"))

import gpu  # noqa: E402

FIGURES = (
    "machine",
    "candidates 32 x 1,000",
    "all pairs of 500",
    "relative error of delta norms",
    "family of smoke",
    "edges from sketches",
    "direction_auc",
    "debiased CKA by kin",
    "full compare of two",
    "forward pass of a fingerprint",
)


@pytest.mark.slow
def test_every_figure_is_printed_and_none_is_passed_off_as_a_gpus(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with one_thread():
        assert gpu.main(["--smoke", "--work", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    for figure in FIGURES:
        assert figure in said
    assert f"torch {torch.__version__}" in said
    assert torch.cuda.is_available() != ("no CUDA device: every line above is from the CPU" in said)
    # Weights are not kept.
    assert not any(tmp_path.iterdir())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_nothing_is_measured_unless_asked(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert gpu.main([]) == 2
    assert "--smoke" in capsys.readouterr().out
