"""What reference libraries pack is decoded as they decode it; skipped where not installed."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
import torch
from safetensors.torch import save
from weight_files import MemoryBytes, span

from modelkin.scanners.formats.packed import unpack
from modelkin.scanners.formats.safetensors_file import read_header

NAME = "model.layers.0.self_attn.v_proj.weight"


def decoded(tensors: dict[str, torch.Tensor], config: dict[str, object]) -> np.ndarray:
    data = save({name: tensor.contiguous() for name, tensor in tensors.items()})
    header = asyncio.run(read_header(MemoryBytes(data)))
    file = unpack({spec.name: spec for spec in header.tensors}, config=config)
    weight = file.weights[NAME]
    count = weight.shape[0] * weight.shape[1]
    found = span(weight, data, 0, count)
    return np.frombuffer(found.data, "<f4").reshape(weight.shape)


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_bitsandbytes_decodes_alike(kind: str, double: bool) -> None:
    bitsandbytes = pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    weight = torch.randn(128, 256, generator=torch.Generator().manual_seed(1)) * 0.1
    packed, state = bitsandbytes.functional.quantize_4bit(
        weight, blocksize=64, quant_type=kind, compress_statistics=double
    )
    expected = bitsandbytes.functional.dequantize_4bit(packed, state).numpy()
    tensors = {f"{NAME}.{key}": value for key, value in state.as_dict(packed=True).items()}
    tensors |= {NAME: packed, "model.norm.weight": torch.ones(256)}
    assert np.allclose(decoded(tensors, {}), expected, rtol=1e-5, atol=1e-7)


def test_compressed_tensors_decodes_alike() -> None:
    library = pytest.importorskip(
        "compressed_tensors.compressors.pack_quantized.helpers",
        reason="compressed-tensors is not installed",
    )
    weight = torch.randint(-8, 8, (32, 128), dtype=torch.int8)
    scale = torch.rand(32, 4) + 0.1
    tensors = {
        f"{NAME.removesuffix('weight')}weight_packed": library.pack_to_int32(weight, 4),
        f"{NAME.removesuffix('weight')}weight_scale": scale,
    }
    expected = weight.float() * scale.repeat_interleave(32, dim=1)
    assert np.allclose(decoded(tensors, {}), expected.numpy(), rtol=1e-6)
