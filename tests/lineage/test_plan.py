"""The sketch plan: the same places for a model whatever its file looks like, within a budget."""

from __future__ import annotations

import hashlib
import math
from importlib import resources

import pytest
from families import SMALL, Size, shapes_of
from hypothesis import given, settings
from hypothesis import strategies as st

from modelkin.lineage import architectures
from modelkin.lineage.architectures.roles import assign_roles
from modelkin.lineage.records import RoleKey
from modelkin.lineage.sketch.plan import (
    GROUP,
    PLAN_VERSION,
    Span,
    choose_places,
    is_matrix,
    is_writer,
    kindred_shapes,
    shape_key,
    spans_of,
)

Shapes = dict[str, tuple[int, ...]]
BUDGET = 2_000_000
REQUESTS = 40
ROLES = ("spans-3", "3f16e075fa276c1b")
"""A plan and the tables of roles that it was made with; one never changes without the other."""


def llama(layers: int, hidden: int, inner: int, *, kv: int, vocabulary: int) -> Shapes:
    return shapes_of(Size(layers=layers, hidden=hidden, inner=inner, kv=kv, vocabulary=vocabulary))


def gpt2(layers: int, hidden: int) -> Shapes:
    shapes: Shapes = {"wte.weight": (50257, hidden), "wpe.weight": (1024, hidden)}
    for layer in range(layers):
        shapes |= {
            f"h.{layer}.ln_1.weight": (hidden,),
            f"h.{layer}.attn.c_attn.weight": (hidden, 3 * hidden),
            f"h.{layer}.attn.c_attn.bias": (3 * hidden,),
            f"h.{layer}.attn.c_proj.weight": (hidden, hidden),
            f"h.{layer}.mlp.c_fc.weight": (hidden, 4 * hidden),
            f"h.{layer}.mlp.c_proj.weight": (4 * hidden, hidden),
        }
    return shapes | {"ln_f.weight": (hidden,)}


def neox(layers: int, hidden: int) -> Shapes:
    shapes: Shapes = {"gpt_neox.embed_in.weight": (50304, hidden)}
    for layer in range(layers):
        start = f"gpt_neox.layers.{layer}."
        shapes |= {
            start + "input_layernorm.weight": (hidden,),
            start + "attention.query_key_value.weight": (3 * hidden, hidden),
            start + "attention.dense.weight": (hidden, hidden),
            start + "mlp.dense_h_to_4h.weight": (4 * hidden, hidden),
            start + "mlp.dense_4h_to_h.weight": (hidden, 4 * hidden),
        }
    return shapes | {"embed_out.weight": (50304, hidden)}


def bert(layers: int, hidden: int) -> Shapes:
    shapes: Shapes = {"bert.embeddings.word_embeddings.weight": (30522, hidden)}
    for layer in range(layers):
        start = f"bert.encoder.layer.{layer}."
        shapes |= {
            start + "attention.self.query.weight": (hidden, hidden),
            start + "attention.self.key.weight": (hidden, hidden),
            start + "attention.self.value.weight": (hidden, hidden),
            start + "attention.output.dense.weight": (hidden, hidden),
            start + "intermediate.dense.weight": (4 * hidden, hidden),
            start + "output.dense.weight": (hidden, 4 * hidden),
        }
    return shapes


def t5(layers: int, hidden: int, inner: int) -> Shapes:
    shapes: Shapes = {"shared.weight": (32128, hidden)}
    for stack in ("encoder", "decoder"):
        for layer in range(layers):
            start = f"{stack}.block.{layer}.layer."
            parts = ["0.SelfAttention"] + (["1.EncDecAttention"] if stack == "decoder" else [])
            last = len(parts)
            for part in parts:
                shapes |= {f"{start}{part}.{p}.weight": (hidden, hidden) for p in "qkvo"}
            shapes |= {
                f"{start}{last}.DenseReluDense.wi.weight": (inner, hidden),
                f"{start}{last}.DenseReluDense.wo.weight": (hidden, inner),
            }
    return shapes


REAL: dict[str, Shapes] = {
    "llama-7b": llama(32, 4096, 11008, kv=4096, vocabulary=32000),
    "llama-8b": llama(32, 4096, 14336, kv=1024, vocabulary=128256),
    "qwen-0.5b": llama(24, 896, 4864, kv=128, vocabulary=151936),
    "deepseek-1.3b": llama(24, 2048, 5504, kv=2048, vocabulary=32256),
    "btlm-3b": llama(32, 2560, 6826, kv=2560, vocabulary=50257),
    "gpt2": gpt2(12, 768),
    "gpt2-xl": gpt2(48, 1600),
    "pythia-6.9b": neox(32, 4096),
    "bert-large": bert(24, 1024),
    "t5-large": t5(24, 1024, 4096),
}
HUGE: dict[str, Shapes] = {
    "llama-70b": llama(80, 8192, 28672, kv=1024, vocabulary=128256),
    "llama-405b": llama(126, 16384, 53248, kv=1024, vocabulary=128256),
}


def plan(shapes: Shapes) -> dict[RoleKey, tuple[Span, tuple[int, ...]]]:
    """Span and stored shape of every planned tensor."""
    names = {p.key: name for name, p in assign_roles(list(shapes.items())).items()}
    planned = {key: shapes[names[key]] for key in choose_places(list(names))}
    return {span.key: (span, planned[span.key]) for span in spans_of(planned)}


def key_of(shapes: Shapes) -> str:
    names = {p.key: name for name, p in assign_roles(list(shapes.items())).items()}
    return shape_key(list(names), {key: shapes[names[key]] for key in choose_places(list(names))})


def spans(shapes: Shapes) -> dict[RoleKey, Span]:
    return {key: span for key, (span, _) in plan(shapes).items()}


@pytest.mark.parametrize("name", [*REAL, *HUGE])
def test_every_span_is_whole_groups_inside_its_tensor(name: str) -> None:
    for span, shape in plan((REAL | HUGE)[name]).values():
        size = math.prod(shape)
        assert 0 < span.count <= size - span.start
        assert span.start % GROUP == 0
        if is_matrix(span.key):
            assert span.count % GROUP == 0 or span.count == size


@pytest.mark.parametrize("name", REAL)
def test_a_plan_fits_the_budget_in_float32(name: str) -> None:
    """All but the end of the plan, which is read where there is room."""
    planned = spans(REAL[name])
    spare = [key for key in planned if key.role.endswith(("attn.q", "attn.k"))][2:]
    needed = [
        span
        for key, span in planned.items()
        if (is_matrix(key) and key not in spare) or key.role in ("final_norm", "embed")
    ]
    assert sum(span.count for span in needed) * 4 <= BUDGET
    assert len(planned) <= REQUESTS - 5


@pytest.mark.parametrize("name", HUGE)
def test_the_largest_models_fit_in_the_dtype_they_are_published_in(name: str) -> None:
    assert sum(span.count for span in spans(HUGE[name]).values()) * 2 <= BUDGET


@pytest.mark.parametrize("name", [*REAL, *HUGE])
def test_several_kinds_of_matrix_are_read_from_first_to_last_layer(name: str) -> None:
    shapes = (REAL | HUGE)[name]
    places = [p.key for p in assign_roles(list(shapes.items())).values()]
    planned = [key for key in spans(shapes) if is_matrix(key)]
    layers = {key.layer for key in places if is_matrix(key)} - {None}
    assert len({key.role for key in planned}) >= 4
    assert {key.layer for key in planned} >= {min(layers), max(layers)}
    assert any(is_writer(key) for key in planned)
    queries = [key for key in planned if key.role.endswith(("attn.q", "attn.k"))]
    ends = {(key.role.partition("attn")[0], key.layer) for key in queries}
    assert len(queries) <= 4
    assert all(len([e for e in ends if e[0] == stack]) <= 2 for stack, _ in ends)


@pytest.mark.parametrize("name", [*REAL, *HUGE])
def test_bands_of_writers_are_whole_rows_from_the_first(name: str) -> None:
    writers = [(s, shape) for s, shape in plan((REAL | HUGE)[name]).values() if is_writer(s.key)]
    assert len(writers) >= 4
    assert all(span.start == 0 for span, _ in writers)
    assert all(span.count >= 2 * shape[1] for span, shape in writers)


@pytest.mark.parametrize("name", [*REAL, *HUGE])
def test_layers_are_sampled_alike(name: str) -> None:
    """What one layer is asked for every other layer is asked for, so any two can be compared."""
    by_role: dict[str, set[tuple[int, int]]] = {}
    for key, span in spans((REAL | HUGE)[name]).items():
        if key.layer is not None:
            by_role.setdefault(key.role, set()).add((span.start, span.count))
    assert all(len(found) == 1 for found in by_role.values())


@pytest.mark.parametrize("inner", [8192, 5504, 1000])
def test_a_narrower_model_is_sampled_at_the_same_rows(inner: int) -> None:
    whole = spans(REAL["llama-7b"])
    narrow = spans(llama(32, 4096, inner, kv=4096, vocabulary=32000))
    assert narrow.keys() == whole.keys()
    same = {key for key in whole if narrow[key] == whole[key]}
    assert {key.role for key in whole.keys() - same} <= {"mlp.down"}


@pytest.mark.parametrize(("deep", "shallow"), [(32, 24), (32, 28), (40, 32), (80, 64), (16, 11)])
def test_a_layer_taken_out_between_leaves_the_sampled_ones(deep: int, shallow: int) -> None:
    """Counted from their nearer end, the sampled layers of the two are the same."""

    def from_ends(layers: int) -> set[int]:
        keys = [RoleKey(role="mlp.up", layer=layer) for layer in range(layers)]
        sampled = [key.layer or 0 for key in choose_places(keys)]
        return {layer if layer < layers / 2 else layer - layers for layer in sampled}

    assert from_ends(deep) == from_ends(shallow)
    assert len(from_ends(deep)) == 4


def test_gate_and_up_rows_are_of_the_same_units() -> None:
    planned = spans(REAL["llama-8b"])
    for layer in {key.layer for key in planned if key.role == "mlp.gate"}:
        gate, up = (planned[RoleKey(role=f"mlp.{part}", layer=layer)] for part in ("gate", "up"))
        assert (gate.start, gate.count) == (up.start, up.count)


def test_the_norms_between_and_the_second_query_and_key_are_the_first_to_go() -> None:
    planned = list(spans(REAL["llama-7b"]))[20:]
    assert {key.role for key in planned[11:]} == {"attn_norm", "mlp_norm"}
    assert len(planned) == 15
    assert [(key.role, key.layer) for key in planned[:11]] == [
        ("final_norm", None),
        ("embed", None),
        ("attn.k", 0),
        ("attn.q", 31),
        ("attn_norm", 0),
        ("mlp_norm", 0),
        ("attn_norm", 31),
        ("mlp_norm", 31),
        ("lm_head", None),
        ("attn.q", 0),
        ("attn.k", 31),
    ]


def test_query_and_key_do_not_make_a_shape() -> None:
    shapes = REAL["llama-7b"]
    without = {n: s for n, s in shapes.items() if "q_proj" not in n and "k_proj" not in n}
    assert key_of(without) == key_of(shapes)


@pytest.mark.parametrize("name", [*REAL, *HUGE])
def test_file_order_does_not_matter(name: str) -> None:
    shapes = (REAL | HUGE)[name]
    backwards = dict(reversed(shapes.items()))
    assert list(plan(backwards).items()) == list(plan(shapes).items())
    assert key_of(backwards) == key_of(shapes)


def test_a_wrapper_around_the_names_does_not_matter() -> None:
    shapes = REAL["llama-8b"]
    wrapped = {f"module.{name}": shape for name, shape in shapes.items()}
    assert plan(wrapped) == plan(shapes)


def test_an_extended_vocabulary_is_sampled_at_the_same_places() -> None:
    shapes = REAL["llama-8b"]
    longer = llama(32, 4096, 14336, kv=1024, vocabulary=128300)
    assert spans(longer) == spans(shapes)
    assert key_of(longer) == key_of(shapes)


def test_tied_embeddings_leave_the_rest_of_the_plan_alone() -> None:
    shapes = REAL["qwen-0.5b"]
    tied = {name: shape for name, shape in shapes.items() if name != "lm_head.weight"}
    assert spans(tied) == {k: s for k, s in spans(shapes).items() if k.role != "lm_head"}
    assert key_of(tied) == key_of(shapes)


def test_biases_and_unknown_extra_tensors_leave_the_plan_alone() -> None:
    shapes = REAL["llama-7b"]
    more = shapes | {
        "model.layers.0.self_attn.v_proj.bias": (4096,),
        "model.layers.3.strange.thing": (5, 5),
        "value_head.summary.weight": (1, 4096),
    }
    assert spans(more) == spans(shapes)
    assert key_of(more) == key_of(shapes)


def test_what_is_read_of_a_tensor_does_not_depend_on_what_else_is_known() -> None:
    """Shards that were not opened take their tensors out of the plan, and nothing else."""
    shapes = REAL["llama-7b"]
    names = {p.key: name for name, p in assign_roles(list(shapes.items())).items()}
    known = [k for k in choose_places(list(names)) if k.layer is None or k.layer < 12]
    partial = {span.key: span for span in spans_of({k: shapes[names[k]] for k in known})}
    whole = spans(shapes)
    assert partial == {key: whole[key] for key in known}


def test_the_shape_key_separates_widths_depths_and_grouped_heads() -> None:
    keys = {
        key_of(llama(32, 4096, 11008, kv=4096, vocabulary=32000)),
        key_of(llama(31, 4096, 11008, kv=4096, vocabulary=32000)),
        key_of(llama(32, 4096, 11009, kv=4096, vocabulary=32000)),
        key_of(llama(32, 2048, 11008, kv=2048, vocabulary=32000)),
        key_of(llama(32, 4096, 11008, kv=1024, vocabulary=32000)),
        key_of(gpt2(12, 768)),
        key_of(bert(12, 768)),
    }
    assert len(keys) == 7


def test_a_long_shape_key_is_cut_to_a_digest() -> None:
    keys = [key_of(t5(24, 1024, inner)) for inner in (4096, 2816)]
    assert keys[0] != keys[1]
    assert all(len(key) <= 160 for key in keys)


def test_a_model_of_unknown_names_is_sampled_under_raw_roles() -> None:
    shapes: Shapes = {f"tower.{i}.mix.weight": (300, 200) for i in range(6)}
    shapes |= {f"tower.{i}.mix.bias": (300,) for i in range(6)}
    planned = plan(shapes)
    assert planned
    assert all(key.role.startswith("raw:") for key in planned)
    assert not any(key.role.endswith(".bias") for key in planned)
    assert key_of(shapes).startswith("L6;")


def test_empty_tensors_and_empty_models_are_no_spans() -> None:
    assert choose_places([]) == ()
    assert spans_of({}) == ()
    key = RoleKey(role="mlp.up", layer=0)
    assert spans_of({key: (0, 64)}) == ()
    assert shape_key([], {}) == "L0;"


@settings(max_examples=40)
@given(
    hidden=st.integers(1, 6000),
    inner=st.integers(1, 20000),
    kv=st.integers(1, 4000),
    layers=st.integers(1, 9),
    vocabulary=st.integers(1, 300_000),
)
def test_any_shape_gives_spans_inside_the_tensors(
    hidden: int, inner: int, kv: int, layers: int, vocabulary: int
) -> None:
    shapes = llama(layers, hidden, inner, kv=kv, vocabulary=vocabulary)
    planned = plan(shapes)
    assert planned
    for span, shape in planned.values():
        size = math.prod(shape)
        assert span.start >= 0
        assert 0 < span.count <= size - span.start
        if is_matrix(span.key):
            assert span.start % GROUP == 0
            assert span.count % GROUP == 0 or span.count == size
    assert sum(span.count for span, _ in planned.values()) * 2 <= BUDGET


def test_spans_are_named_after_their_tensors() -> None:
    assert Span(key=RoleKey(role="mlp.up", layer=3), start=0, count=1).name == "3.mlp.up"
    assert {span.name for span in spans(shapes_of(SMALL)).values()} >= {"embed", "0.attn.v"}


def test_shapes_of_one_width_and_the_same_roles_are_kindred() -> None:
    whole = "L4;attn.o=64x64;attn.v=32x64;mlp.down=64x160;mlp.up=160x64"
    shallow = "L3;attn.o=64x64;attn.v=32x64;mlp.down=64x160;mlp.up=160x64"
    narrow = "L4;attn.o=64x48;attn.v=16x64;mlp.down=64x120;mlp.up=120x64"
    wider = "L4;attn.o=96x96;attn.v=32x96;mlp.down=96x160;mlp.up=160x96"
    gated = whole + ";mlp.gate=160x64"
    digest = "L4;0123456789abcdef"
    assert kindred_shapes(whole, shallow)
    assert kindred_shapes(narrow, whole)
    assert kindred_shapes(digest, digest)
    for other in (wider, gated, digest):
        assert not kindred_shapes(whole, other)
        assert not kindred_shapes(other, whole)


def test_other_roles_are_another_plan() -> None:
    """Sketches of one plan are compared: a role more or less moves the spans of a model."""
    folder = resources.files(architectures)
    tables = sorted(one.name for one in folder.iterdir() if one.name.endswith(".json"))
    digest = hashlib.sha256()
    for name in tables:
        digest.update(name.encode() + folder.joinpath(name).read_bytes())
    assert (PLAN_VERSION, digest.hexdigest()[:16]) == ROLES
