"""The benchmark zoo: toy models that are really trained, with a family tree that is known.

    python -m benchmarks.zoo OUT --seed N [--small] [--only llama,neox,encoder] [--cache DIR]

It is run from the root of the repository and writes

- `OUT/<org>/<name>/`: one repository a published model, with `model.safetensors` (or shards and
  their index), `config.json` and a card; adapters as PEFT writes them. No tokenizer is written.
- `OUT/hub.json`: creation times, as the loopback Hub reads them.
- `OUT/truth.json`: one row a model, those that were never published (`hidden`) included.

Nothing in `OUT` but the truth file says how a model was made: organisations, names and order are
drawn at random; half of the cards declare the parent, a third declare nothing, the rest are wrong.

What is in a zoo
----------------
Three architectures (`architectures`): grouped-query Llama, GPT-NeoX with a fused qkv, and a BERT
encoder trained on masked words. All Llama bases are trained on the same batches by the same
recipe and differ in their initialisation alone: they are the null of every test that says "kin".
Two of them grow a full family each, the others a small one (`families`). Every child starts from
its parent's published, rounded weights. The menus of the two full families are dealt from one
deck, so that a full zoo has every kind of transformation at least once.

The kinds, by `split_class` of the truth rows:

finetune       full fine-tunes, narrow to broad subjects, at rates 5e-5 to 8e-4 and weight decay 0
               to 0.1; continued pretraining; a chain to depth 5; fine-tunes of dequantized,
               merged and otherwise changed models
lora           merged adapters of rank 2 to 32 on several targets; unmerged PEFT adapters
merge          linear, near-collinear linear, task arithmetic, slerp, layer gradient, TIES,
               DARE-linear, DARE-TIES, passthrough of two siblings (`merging`)
quantized      round-to-nearest at 8, 4, 3 and 2 bits, stored dequantized
prune          by magnitude, and whole neurons set to zero
cross-shape    neurons, heads or layers really removed, a layer removed and healed, a self-stack of
               repeated layers, eight more words in the vocabulary (`slimming`)
edit           a direction projected out of every writer, in full or by half; a rank-one update of
               one down-projection (`editing`)
copy           byte copies, other shards, casts
hidden-child   children of models that were never published
laundered      the same function in other weights: hidden units, heads or the residual basis
               permuted, rescaled or rotated, alone and combined, and fine-tuned after
               (`laundering`); each is checked against its parent's logits in float32
base, chat     the roots and the first training after them
hidden         what was never published

A truth row
-----------
`parents` (true parents; bases of a task-vector merge stand in `detail.base` instead), `shares` (by
parent, None where not defined), `how`, `relation`, `detail`, `created` (Unix seconds, never
before a parent), `hidden`, `declared` (what card or adapter say), `family` (root model),
`split_class`, `architecture`, `dtype`; `refusal_harmful`, `refusal_harmless` (None: not measured).

A full zoo has about 142 published models and 8 hidden ones and takes about five minutes of one
core; `--small` has 37 and takes less than one. The same seed, machine and torch build give the
same bytes. Bases learn the language's sentences and chats learn to refuse, but two hundred steps
do not teach every one of them to name the verb that was asked for.
`--cache DIR` keeps what has been made under a key of seed, size and the digest of this code.
"""

from __future__ import annotations

import sys
from pathlib import Path

# The scripts of benchmarks/ import one another by their file names.
_SCRIPTS = str(Path(__file__).resolve().parents[1])
if _SCRIPTS not in sys.path:
    sys.path.insert(0, _SCRIPTS)
