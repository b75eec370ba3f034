"""Roles of tensor names, against the parameters of real (tiny) transformers models."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pytest
import safetensors
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

from modelkin.lineage.architectures.roles import (
    WRITERS,
    Place,
    assign_roles,
    hidden_width,
    shape_key,
)
from modelkin.lineage.records import RoleKey

Shapes = dict[str, tuple[int, ...]]

SIZE = {
    "hidden_size": 16,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "vocab_size": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GROUPED = {**SIZE, "num_key_value_heads": 1}
GATED = {"attn_norm", "mlp_norm", "attn.q", "attn.k", "attn.v", "attn.o", "mlp.gate", "mlp.up"}
GATED |= {"mlp.down"}
QK_NORM = {"attn.q_norm", "attn.k_norm"}
POST = {"attn_post_norm", "mlp_post_norm"}
FUSED = {"attn_norm", "mlp_norm", "attn.qkv", "attn.o", "mlp.up", "mlp.down"}
PLAIN = {"attn.q", "attn.k", "attn.v", "attn.o", "mlp.up", "mlp.down"}
HEAD = {"embed", "final_norm", "lm_head"}
BERT = {"embed", "pos_embed", "type_embed", "embed_norm"}
T5 = {"attn.q", "attn.k", "attn.v", "attn.o", "attn_norm", "mlp_norm", "mlp.down", "mlp.up"}
T5_SIZE = {"d_model": 16, "d_kv": 8, "d_ff": 40, "num_layers": 2, "num_heads": 2, "vocab_size": 64}
VIT = {**SIZE, "image_size": 32, "patch_size": 16}
GPT2 = {"n_embd": 16, "n_layer": 2, "n_head": 2, "vocab_size": 64, "bos_token_id": 1}
BART = {
    **{"d_model": 16, "encoder_layers": 2, "decoder_layers": 2, "vocab_size": 64},
    **{"encoder_attention_heads": 2, "decoder_attention_heads": 2},
    **{"encoder_ffn_dim": 40, "decoder_ffn_dim": 40, "pad_token_id": 0, "bos_token_id": 1},
    **{"eos_token_id": 2, "decoder_start_token_id": 1},
}
DISTIL = {"dim": 16, "hidden_dim": 40, "n_layers": 2, "n_heads": 2, "vocab_size": 64}


def prefixed(prefix: str, roles: set[str]) -> set[str]:
    return {prefix + role for role in roles}


BART_LAYER = prefixed("enc.", PLAIN | {"attn_norm", "mlp_norm"})
BART_LAYER |= prefixed("dec.", PLAIN | {"attn_norm", "mlp_norm", "cross_norm"})
BART_LAYER |= {"dec.cross.q", "dec.cross.k", "dec.cross.v", "dec.cross.o"}

INNER = "transformer_blocks"

# name of the class: (arguments of its config, roles of each layer, roles outside the stack)
MODELS: dict[str, tuple[dict[str, object], set[str], set[str]]] = {
    "LlamaForCausalLM": (GROUPED, GATED, HEAD),
    "LlamaForSequenceClassification": (GROUPED, GATED, {"embed", "final_norm", "classifier"}),
    "MistralForCausalLM": (GROUPED, GATED, HEAD),
    "Qwen2ForCausalLM": (GROUPED, GATED, HEAD),
    "Qwen3ForCausalLM": ({**GROUPED, "head_dim": 8}, GATED | QK_NORM, HEAD),
    "GemmaForCausalLM": ({**GROUPED, "head_dim": 8}, GATED, HEAD),
    "Gemma2ForCausalLM": ({**GROUPED, "head_dim": 8}, GATED | POST, HEAD),
    "Gemma3ForCausalLM": ({**GROUPED, "head_dim": 8}, GATED | POST | QK_NORM, HEAD),
    "Phi3ForCausalLM": (
        GROUPED,
        {"attn_norm", "mlp_norm", "attn.qkv", "attn.o", "mlp.gate_up", "mlp.down"},
        HEAD,
    ),
    "PhiForCausalLM": (
        {**GROUPED, "qk_layernorm": True},
        PLAIN | {"attn_norm"} | QK_NORM,
        HEAD,
    ),
    "GPT2LMHeadModel": (GPT2, FUSED, HEAD | {"pos_embed"}),
    "GPTNeoForCausalLM": (
        {
            "hidden_size": 16,
            "num_layers": 2,
            "num_heads": 2,
            "vocab_size": 64,
            "attention_types": [[["global"], 2]],
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
        PLAIN | {"attn_norm", "mlp_norm"},
        HEAD | {"pos_embed"},
    ),
    "GPTJForCausalLM": ({**GPT2, "rotary_dim": 4}, PLAIN | {"attn_norm"}, HEAD),
    "GPTNeoXForCausalLM": (SIZE, FUSED, HEAD),
    "BloomForCausalLM": (
        {"hidden_size": 16, "n_layer": 2, "n_head": 2, "vocab_size": 64},
        FUSED,
        HEAD | {"embed_norm"},
    ),
    "OPTForCausalLM": (
        {**SIZE, "ffn_dim": 40, "word_embed_proj_dim": 8},
        PLAIN | {"attn_norm", "mlp_norm"},
        HEAD | {"pos_embed", "embed.project", "lm_head.project"},
    ),
    "BertModel": (SIZE, PLAIN | POST, BERT | {"pooler"}),
    "BertForPreTraining": (
        SIZE,
        PLAIN | POST,
        BERT | {"pooler", "classifier", "lm_head", "lm_head.transform", "lm_head.norm"},
    ),
    "BertForSequenceClassification": (SIZE, PLAIN | POST, BERT | {"pooler", "classifier"}),
    "RobertaForMaskedLM": (
        SIZE,
        PLAIN | POST,
        BERT | {"lm_head", "lm_head.transform", "lm_head.norm"},
    ),
    "RobertaForSequenceClassification": (
        SIZE,
        PLAIN | POST,
        BERT | {"classifier", "classifier.transform"},
    ),
    "DistilBertForMaskedLM": (
        DISTIL,
        PLAIN | POST,
        (BERT - {"type_embed"}) | {"lm_head", "lm_head.transform", "lm_head.norm"},
    ),
    "T5ForConditionalGeneration": (
        {**T5_SIZE, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
        prefixed("enc.", T5 | {"mlp.gate"})
        | prefixed("dec.", T5 | {"mlp.gate", "cross.q", "cross.k", "cross.v", "cross.o"})
        | {"dec.cross_norm"},
        {"embed", "lm_head", "enc.final_norm", "dec.final_norm"},
    ),
    "T5EncoderModel": (T5_SIZE, prefixed("enc.", T5), {"embed", "enc.final_norm"}),
    "BartModel": (
        {**BART, "max_position_embeddings": 16},
        BART_LAYER,
        {"embed", "enc.embed_norm", "dec.embed_norm", "enc.pos_embed", "dec.pos_embed"},
    ),
    "WhisperForConditionalGeneration": (
        {**BART, "num_mel_bins": 8, "max_source_positions": 16, "max_target_positions": 16},
        BART_LAYER,
        {"embed", "enc.final_norm", "dec.final_norm", "enc.pos_embed", "dec.pos_embed"}
        | {"enc.patch_embed", "enc.patch_embed.second", "lm_head"},
    ),
    "CLIPTextModel": (
        SIZE,
        prefixed("text.", PLAIN | {"attn_norm", "mlp_norm"}),
        {"embed", "text.pos_embed", "text.final_norm"},
    ),
    "DbrxForCausalLM": (
        {
            **{"d_model": 16, "n_heads": 2, "n_layers": 2, "vocab_size": 64},
            "attn_config": {"kv_n_heads": 1, "rope_theta": 10000.0},
            "ffn_config": {"ffn_hidden_size": 24, "moe_num_experts": 2, "moe_top_k": 1},
        },
        {"attn.qkv", "attn.o", "attn_norm", "mlp_norm", "router"}
        | {"expert.mlp.gate", "expert.mlp.up", "expert.mlp.down"},
        HEAD,
    ),
    "ViTForImageClassification": (
        VIT,
        PLAIN | {"attn_norm", "mlp_norm"},
        {"patch_embed", "cls_token", "pos_embed", "final_norm", "classifier"},
    ),
    "ViTModel": (
        VIT,
        PLAIN | {"attn_norm", "mlp_norm"},
        {"patch_embed", "cls_token", "pos_embed", "final_norm", "pooler"},
    ),
}
TIED = {"enc.embed", "dec.embed"}
FIRST_LAYER = {"enc.pos_embed", "dec.pos_embed"}


def tiny(name: str, **changes: object) -> transformers.PreTrainedModel:
    kind = getattr(transformers, name)
    torch.manual_seed(1)
    return kind(kind.config_class(**{**MODELS[name][0], **changes}))


def in_memory(model: torch.nn.Module) -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def on_disk(model: transformers.PreTrainedModel, folder: Path) -> Shapes:
    model.save_pretrained(folder)
    with safetensors.safe_open(folder / "model.safetensors", framework="pt") as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in list(file.keys())}


def key_of(shapes: Shapes) -> str:
    return shape_key(assign_roles(list(shapes.items())), shapes)


def roles_of(places: Mapping[str, Place], layer: int | None) -> set[str]:
    return {
        place.key.role.removesuffix(".bias")
        for place in places.values()
        if place.key.layer == layer
    }


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_parameter_has_a_role(name: str, tmp_path: Path) -> None:
    model = tiny(name)
    _, layered, outside = MODELS[name]
    for shapes in (in_memory(model), on_disk(model, tmp_path)):
        places = assign_roles(list(shapes.items()), model_type=model.config.model_type)
        assert places.keys() == shapes.keys()
        assert not [place for place in places.values() if place.key.role.startswith("raw:")]
        assert roles_of(places, 0) - FIRST_LAYER == layered
        assert roles_of(places, 1) == layered
        assert roles_of(places, None) - TIED - {"lm_head.tied"} | {"lm_head"} == outside | {
            "lm_head"
        }
        assert len({place.key for place in places.values()}) == len(places)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_roles_do_not_depend_on_the_model_type(name: str) -> None:
    shapes = list(in_memory(tiny(name)).items())
    expected = assign_roles(shapes)
    for model_type in ("llama", "gemma2", "gpt2", "bert", "opt", "no such type", None):
        assert assign_roles(shapes, model_type=model_type) == expected
    assert assign_roles(shapes[::-1]) == expected


@pytest.mark.parametrize(
    "prefix",
    ["model.", "transformer.", "base_model.model.", "_orig_mod.", "module.", "module._orig_mod."],
)
@pytest.mark.parametrize("name", ["LlamaForCausalLM", "GPT2LMHeadModel", "BertModel", "ViTModel"])
def test_a_wrapper_changes_neither_roles_nor_key(name: str, prefix: str) -> None:
    shapes = in_memory(tiny(name))
    wrapped = {prefix + key: shape for key, shape in shapes.items()}
    places = assign_roles(list(shapes.items()))
    assert assign_roles(list(wrapped.items())) == {prefix + k: v for k, v in places.items()}
    assert key_of(wrapped) == key_of(shapes)


def test_a_language_model_inside_a_larger_one() -> None:
    shapes = in_memory(tiny("LlamaForCausalLM"))
    inner = {"language_model." + name: shape for name, shape in shapes.items()}
    tower = "vision_tower.vision_model.encoder.layers.1.self_attn.q_proj.weight"
    places = assign_roles([*inner.items(), (tower, (8, 8))])
    raw = "raw:vision_tower.vision_model.encoder.layers.*.self_attn.q_proj.weight"
    assert places.pop(tower).key == RoleKey(role=raw, layer=1)
    assert {place.key for place in places.values()} == {
        place.key for place in assign_roles(list(shapes.items())).values()
    }


def test_wrappers_inside_a_name() -> None:
    shapes = in_memory(tiny("LlamaForCausalLM"))
    inside = {
        re.sub(r"(layers\.\d+\.)", r"\1_orig_mod.", name).replace(
            "q_proj.", "q_proj.base_layer."
        ): s
        for name, s in shapes.items()
    }
    assert key_of(inside) == key_of(shapes)


def test_the_old_names_of_layer_norms() -> None:
    shapes = in_memory(tiny("BertModel"))
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("Norm.bias", "Norm.beta"): shape
        for name, shape in shapes.items()
    }
    assert old.keys() != shapes.keys()
    assert key_of(old) == key_of(shapes)


def test_the_names_of_the_first_llama_release() -> None:
    layer = {
        "attention.wq": (16, 16),
        "attention.wk": (8, 16),
        "attention.wv": (8, 16),
        "attention.wo": (16, 16),
        "feed_forward.w1": (40, 16),
        "feed_forward.w2": (16, 40),
        "feed_forward.w3": (40, 16),
        "attention_norm": (16,),
        "ffn_norm": (16,),
    }
    shapes: Shapes = {
        f"layers.{i}.{name}.weight": shape for i in range(2) for name, shape in layer.items()
    }
    shapes |= {"tok_embeddings.weight": (64, 16), "norm.weight": (16,), "output.weight": (64, 16)}
    assert key_of(shapes) == key_of(in_memory(tiny("LlamaForCausalLM")))


def test_conv1d_is_stored_the_other_way_round() -> None:
    shapes = in_memory(tiny("GPT2LMHeadModel"))
    places = assign_roles(list(shapes.items()))
    transposed = {place.key.role for place in places.values() if place.transposed}
    assert transposed == {"attn.qkv", "attn.o", "mlp.up", "mlp.down"}
    turned = {
        name: shape[::-1] if places[name].transposed else shape for name, shape in shapes.items()
    }
    # GPT-BigCode has these names and stores [out, in].
    linear = assign_roles(list(turned.items()))
    assert not any(place.transposed for place in linear.values())
    assert {n: p.key for n, p in linear.items()} == {n: p.key for n, p in places.items()}
    assert shape_key(linear, turned) == shape_key(places, shapes)


@pytest.mark.parametrize("name", sorted(set(MODELS) - {"GPT2LMHeadModel"}))
def test_no_other_family_is_transposed(name: str) -> None:
    places = assign_roles(list(in_memory(tiny(name)).items()))
    assert not any(place.transposed for place in places.values())


def test_buffers_are_no_parameters() -> None:
    shapes = in_memory(tiny("GPT2LMHeadModel"))
    more: Shapes = {
        "transformer.h.0.attn.bias": (1, 1, 1024, 1024),
        "transformer.h.1.attn.masked_bias": (),
    }
    places = assign_roles([*shapes.items(), *more.items()])
    assert {places[name].key for name in more} == {
        RoleKey(role="buffer", layer=0),
        RoleKey(role="buffer", layer=1),
    }
    assert shape_key(places, shapes | more) == key_of(shapes)
    llama = in_memory(tiny("LlamaForCausalLM"))
    frequencies: Shapes = {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": (4,) for i in (0, 1)}
    assert key_of(llama | frequencies) == key_of(llama)


def test_a_quantizers_scales_do_not_change_the_key() -> None:
    shapes = in_memory(tiny("LlamaForCausalLM"))
    scales: Shapes = {
        name + "_scale_inv": (1, 1) for name in shapes if re.search(r"(_proj)\.weight$", name)
    }
    assert len(scales) == 14
    assert key_of(shapes | scales) == key_of(shapes)


@pytest.mark.parametrize("name", sorted(set(MODELS) - {"ViTModel", "ViTForImageClassification"}))
def test_a_larger_vocabulary_gives_the_same_key(name: str) -> None:
    assert key_of(in_memory(tiny(name))) == key_of(in_memory(tiny(name, vocab_size=80)))


@pytest.mark.parametrize("name", ["LlamaForCausalLM", "GPTNeoXForCausalLM", "OPTForCausalLM"])
def test_tied_embeddings_give_the_same_key(name: str, tmp_path: Path) -> None:
    tied = on_disk(tiny(name, tie_word_embeddings=True), tmp_path / "tied")
    free = on_disk(tiny(name, tie_word_embeddings=False), tmp_path / "free")
    assert len(tied) < len(free)
    assert key_of(tied) == key_of(free)


def test_heads_of_one_body_give_the_same_key() -> None:
    bert = {key_of(in_memory(tiny(name))) for name in MODELS if name.startswith("Bert")}
    llama = {key_of(in_memory(tiny(name))) for name in MODELS if name.startswith("Llama")}
    assert len(bert) == len(llama) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"hidden_size": 32},
        {"intermediate_size": 48},
        {"num_hidden_layers": 3},
        {"num_key_value_heads": 2},
        {"attention_bias": True},
    ],
)
def test_another_body_gives_another_key(change: dict[str, object]) -> None:
    shapes = in_memory(tiny("LlamaForCausalLM"))
    assert key_of(in_memory(tiny("LlamaForCausalLM", **change))) != key_of(shapes)


def test_a_key_can_be_read() -> None:
    assert key_of(in_memory(tiny("LlamaForCausalLM"))) == (
        "d16-L2-q16x16-k8x16-v8x16-o16x16-gate40x16-up40x16-down16x40-attn_norm-final_norm-mlp_norm"
    )
    assert re.fullmatch(r"d16-L2-[0-9a-f]{12}", key_of(in_memory(tiny("BertModel"))))


def test_a_role_that_some_layers_lack_is_marked() -> None:
    shapes = in_memory(tiny("LlamaForCausalLM"))
    del shapes["model.layers.1.mlp.up_proj.weight"]
    assert "-up40x16*1-" in key_of(shapes)
    shapes["model.layers.1.mlp.up_proj.weight"] = (24, 16)
    assert "-up24x16,40x16-" in key_of(shapes)


def test_an_unknown_architecture_keeps_stable_roles() -> None:
    shapes: Shapes = {
        "net.emb.weight": (64, 16),
        "net.stage.0.cell.3.w": (16, 16),
        "net.stage.1.cell.3.w": (16, 16),
        "net.tail": (16,),
    }
    places = assign_roles(list(shapes.items()))
    assert {name: str(place.key) for name, place in places.items()} == {
        "net.emb.weight": "raw:net.emb.weight",
        "net.stage.0.cell.3.w": "0.raw:net.stage.*.cell.3.w",
        "net.stage.1.cell.3.w": "1.raw:net.stage.*.cell.3.w",
        "net.tail": "raw:net.tail",
    }
    assert key_of(shapes) == key_of({**shapes, "net.emb.weight": (80, 16)})
    assert key_of(shapes) != key_of({**shapes, "net.tail": (17,)})


def test_experts_keep_their_number_in_their_role() -> None:
    name = "model.layers.7.block_sparse_moe.experts.3.w1.weight"
    assert assign_roles([(name, (8, 8))])[name].key == RoleKey(
        role="raw:layers.*.block_sparse_moe.experts.3.w1.weight", layer=7
    )


def test_two_names_for_one_place_do_not_share_it() -> None:
    names = ["model.norm.weight", "norm.weight", "module.norm.weight", "model.x", "x", "module.x"]
    places = assign_roles([(name, (4,)) for name in names])
    assert places["norm.weight"].key.role == "final_norm"
    assert places["model.norm.weight"].key.role == "raw:norm.weight"
    assert places["module.norm.weight"].key.role == "raw:module.norm.weight"
    assert len({place.key for place in places.values()}) == len(names)


PARTS = st.lists(
    st.sampled_from(["model", "module", "layers", "0", "1", "00", "x", "*", "norm", "", "weight"]),
    min_size=1,
    max_size=6,
)


@given(st.sets(PARTS.map(".".join), max_size=20))
def test_places_are_distinct_and_need_no_order(names: set[str]) -> None:
    tensors = [(name, (2, 3)) for name in sorted(names)]
    places = assign_roles(tensors)
    assert places.keys() == names
    assert len({place.key for place in places.values()}) == len(names)
    assert assign_roles(tensors[::-1]) == places
    shapes: Shapes = dict(tensors)
    assert shape_key(assign_roles(tensors[::-1]), shapes) == shape_key(places, shapes)


@pytest.mark.parametrize(
    "name",
    ["model." * 100_000, "layers." + "9" * 10_000 + ".x", "layers." * 100_000, "\0", "", "٣.٣.٣"],
)
def test_a_crafted_name_is_only_a_name(name: str) -> None:
    (place,) = assign_roles([(name, ())]).values()
    assert place.key.role.startswith("raw:")
    assert place.key.layer is None
    assert shape_key({name: place}, {name: ()}).startswith("d0-L0-")


def test_the_width_is_that_of_the_stream() -> None:
    assert hidden_width({}) == 0
    shapes = in_memory(tiny("OPTForCausalLM"))
    places = assign_roles(list(shapes.items()))
    assert hidden_width({places[name].key: shape for name, shape in shapes.items()}) == 16


def test_writers_are_roles_of_a_known_model() -> None:
    places = assign_roles(list(in_memory(tiny("LlamaForCausalLM")).items()))
    writers = [name for name, place in places.items() if place.key.role in WRITERS]
    assert len(writers) == 4
    assert all(name.endswith(("o_proj.weight", "down_proj.weight")) for name in writers)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (
            {
                f"down_blocks.1.attentions.0.{INNER}.3.attn1.to_v.weight": "3.down.1.0.attn.v",
                f"up_blocks.2.attentions.1.{INNER}.0.attn2.to_q.weight": "0.up.2.1.cross.q",
                f"mid_block.attentions.0.{INNER}.0.ff.net.2.weight": "0.mid.0.mlp.down",
                "conv_norm_out.weight": "final_norm",
            },
            "a UNet counts its layers inside of each attention",
        ),
        (
            {
                "transformer_blocks.4.attn.add_v_proj.weight": "4.text.attn.v",
                "transformer_blocks.4.attn.to_out.0.weight": "4.attn.o",
                "single_transformer_blocks.7.proj_out.weight": "7.single.mlp.down",
            },
            "two kinds of blocks",
        ),
        (
            {
                "layers.1.attn.Wqkv.weight": "1.attn.qkv",
                "layers.1.mlp.Wi.weight": "1.mlp.gate_up",
                "embeddings.tok_embeddings.weight": "embed",
            },
            "ModernBERT",
        ),
        (
            {
                "text_model.encoder.layers.3.mlp.fc2.weight": "3.text.mlp.down",
                "vision_model.encoder.layers.3.self_attn.out_proj.weight": "3.vision.attn.o",
            },
            "two towers",
        ),
        (
            {
                "model.layers.1.feed_forward.experts.0.down_proj.weight": "1.expert.mlp.down",
                "model.layers.1.feed_forward.shared_expert.up_proj.weight": "1.shared.mlp.up",
                "model.layers.1.feed_forward.router.weight": "1.router",
                "model.layers.1.block_sparse_moe.experts.0.input_linear.weight": (
                    "1.expert.mlp.gate_up"
                ),
                "model.layers.1.self_attn.kv_b_proj.weight": "1.attn.kv_b",
            },
            "experts, the one that all tokens see, and the router",
        ),
        (
            {
                "blk.1.ffn_down_shexp.weight": "1.shared.mlp.down",
                "blk.1.ffn_gate_inp.weight": "1.router",
            },
            "the same in llama.cpp",
        ),
    ],
    ids=lambda value: value.replace(" ", "-") if isinstance(value, str) else "",
)
def test_roles_of_parts_that_derivatives_change(names: dict[str, str], expected: str) -> None:
    places = assign_roles([(name, (8, 8)) for name in names])
    assert {name: str(place.key) for name, place in places.items()} == names
