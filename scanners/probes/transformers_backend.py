"""Local weights run with transformers: safetensors only, no remote code, greedy decoding.

torch and transformers are imported where they are used, so that importing this module is free.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...lineage.errors import ProbeError
from ..threads import SMALL_MODEL, one_thread_if
from .adapter_loading import apply_adapter
from .model_folder import check_model_folder
from .transformers_loading import (
    FAILURES,
    check_size,
    first_line,
    greedy,
    load_config,
    load_model,
    load_tokenizer,
    pick_device,
    pick_dtype,
    quiet,
)

BATCH_SIZE = 64
_BATCH_TOKENS = 65_536
_MAX_RENDERED = 64 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstPass:
    """What a model was about to say to each prompt.

    `states` (n, d) float64 by depth, at the last token of the prompt; `tokens` the probabilities
    of the likeliest first tokens of each reply.
    """

    states: Mapping[int, NDArray[np.float64]]
    tokens: tuple[Mapping[int, float], ...]


_Pass = tuple[dict[int, NDArray[np.float64]], list[dict[int, float]]]
"""States by depth, and the likeliest first tokens of each prompt."""


class TransformersBackend:
    """A causal language model and its tokenizer, ready to answer; made by `load`."""

    def __init__(self, *, model: Any, tokenizer: Any, device: str, batch_size: int) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._device = device
        self._batch_size = batch_size
        self._template = tokenizer.chat_template
        self._parameters = sum(weight.numel() for weight in model.parameters())
        self.notes: Mapping[str, Any] = {}
        self._drawn: tuple[float, int] | None = None
        self._begun = ""

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        device: str = "auto",
        dtype: str | None = None,
        batch_size: int = BATCH_SIZE,
        adapter: Path | None = None,
    ) -> TransformersBackend:
        """Load a model from a folder, and from nowhere else.

        Parameters
        ----------
        folder : a Hugging Face model folder with config, tokenizer and safetensors weights.
        device : `auto` (CUDA if there is one), `cpu` or `cuda`.
        dtype : torch name such as `bfloat16`; by default float32 on a CPU for weights up to
            4 GiB, else that of the checkpoint.
        batch_size : prompts a batch at most; halved when CUDA runs out of memory.
        adapter : folder of an adapter that is put onto the model.

        Raises
        ------
        UnsupportedModel : no safetensors, remote code, an adapter, an unknown architecture.
        ProbeError : the folder does not load, or its weights are incomplete.
        """
        found = check_model_folder(folder)
        place = pick_device(device)
        with quiet():
            config = load_config(found)
            check_size(config, found)
            model = load_model(found, config=config, dtype=dtype or pick_dtype(found, place))
            tokenizer = load_tokenizer(found)
            what = None if adapter is None else apply_adapter(model, adapter)
            try:
                model.to(place)
                model.generation_config = greedy(model, tokenizer)
            except FAILURES as error:
                raise ProbeError(f"{folder}: {first_line(error)}") from error
        model.eval()
        made = cls(model=model, tokenizer=tokenizer, device=place, batch_size=batch_size)
        made.notes = {} if what is None else {"adapter": what}
        return made

    def generate(self, prompts: Sequence[str], max_new_tokens: int = 32) -> list[str]:
        """Greedy replies in the order of `prompts`; see `ChatBackend`.

        Prompts are batched by length, so that little is padded.

        Raises
        ------
        ProbeError : the chat template fails, a token has no embedding, or memory is short even
            for one prompt.
        """
        import torch

        cuda = [torch.cuda.current_device()] if self._device == "cuda" else []
        with (
            one_thread_if(self._device == "cpu" and self._parameters < SMALL_MODEL),
            torch.random.fork_rng(devices=cuda, enabled=self._drawn is not None),
        ):
            if self._drawn is not None:
                torch.manual_seed(self._drawn[1])
            return self._generate(prompts, max_new_tokens)

    def _generate(self, prompts: Sequence[str], max_new_tokens: int) -> list[str]:
        rows = [self._encode(prompt) for prompt in prompts]
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]), reverse=True)
        replies = [""] * len(rows)
        size, start = self._batch_size, 0
        while start < len(order):
            size = max(1, min(size, _BATCH_TOKENS // len(rows[order[start]])))
            chunk = order[start : start + size]
            answers = self._answer([rows[i] for i in chunk], max_new_tokens=max_new_tokens)
            if answers is None:
                size = len(chunk) // 2
                if size == 0:
                    raise ProbeError("out of memory with a single prompt")
                continue
            for index, answer in zip(chunk, answers, strict=True):
                replies[index] = answer
            start += len(chunk)
        return replies

    def first_pass(self, prompts: Sequence[str], *, layers: int = 8, top: int = 32) -> FirstPass:
        """One forward pass a prompt: hidden states at its last token, and the first token's odds.

        Parameters
        ----------
        layers : depths that are kept, evenly spread, the last among them.
        top : likeliest first tokens that are kept.

        Raises
        ------
        ProbeError : as for `generate`.
        """
        rows = [self._encode(prompt) for prompt in prompts]
        parts: list[_Pass] = []
        size, start = self._batch_size, 0
        with one_thread_if(self._device == "cpu" and self._parameters < SMALL_MODEL):
            while start < len(rows):
                chunk = rows[start : start + size]
                found = self._pass(chunk, layers, top)
                if found is not None:
                    parts.append(found)
                    start += len(chunk)
                elif len(chunk) == 1:
                    raise ProbeError("out of memory with a single prompt")
                else:
                    size = len(chunk) // 2
        return FirstPass(
            states={
                depth: np.concatenate([states[depth] for states, _ in parts])
                for depth in parts[0][0]
            },
            tokens=tuple(token for _, found in parts for token in found),
        )

    def _pass(self, rows: Sequence[Sequence[int]], layers: int, top: int) -> _Pass | None:
        """States and first tokens of one batch, None when the device has not the memory for it."""
        import torch

        ids, mask = self._padded(rows)
        places = (mask.cumsum(-1) - 1).clamp_min(0)
        try:
            with torch.inference_mode(), quiet():
                output = self._model(
                    input_ids=ids.to(self._device),
                    attention_mask=mask.to(self._device),
                    position_ids=places.to(self._device),
                    output_hidden_states=True,
                    use_cache=False,
                )
                hidden = output.hidden_states
                odds = output.logits[:, -1].float().softmax(-1)
                values, tokens = odds.topk(min(top, odds.shape[-1]), dim=-1)
        except torch.cuda.OutOfMemoryError:
            torch.cuda.empty_cache()
            return None
        except FAILURES as error:
            raise ProbeError(f"a forward pass fails: {first_line(error)}") from error
        last = len(hidden) - 1
        kept = sorted({round(last * (at + 1) / layers) for at in range(layers)} - {0})
        states = {depth: hidden[depth][:, -1].double().cpu().numpy() for depth in kept}
        found = [
            dict(zip(t, v, strict=True))
            for t, v in zip(tokens.tolist(), values.tolist(), strict=True)
        ]
        return states, found

    def with_template(self, template: str | None) -> TransformersBackend:
        """The same model answering under another chat template, or under none."""
        other = copy.copy(self)
        other._template = template
        return other

    def sampled(self, temperature: float, seed: int) -> TransformersBackend:
        """The same model drawing its replies, the same for one seed on one machine."""
        other = copy.copy(self)
        other._drawn = (temperature, seed)
        return other

    def begun(self, text: str) -> TransformersBackend:
        """The same model going on from `text` at the start of each reply."""
        other = copy.copy(self)
        other._begun = text
        return other

    def environment(self) -> Mapping[str, Any]:
        """What the replies depend on beside the weights, for the scores."""
        import torch
        import transformers

        template = self._template
        digest = hashlib.sha256(repr(template).encode()).hexdigest() if template else None
        return {
            "engine": "transformers",
            "engine_version": str(transformers.__version__),
            "torch_version": str(torch.__version__),
            "device": self._device,
            "dtype": str(self._model.dtype).removeprefix("torch."),
            "template_sha256": digest,
            "decoding": "greedy",
            **self.notes,
        }

    def _encode(self, prompt: str) -> list[int]:
        text = self._render(prompt)
        if self._begun:
            text += ("" if text.endswith((" ", "\n")) else " ") + self._begun
        templated = bool(self._template)
        try:
            ids = list(self._tokenizer(text, add_special_tokens=not templated)["input_ids"])
        except FAILURES as error:
            raise ProbeError(f"the tokenizer fails: {first_line(error)}") from error
        rows = self._model.get_input_embeddings().weight.shape[0]
        # Out of range, the CPU raises but a GPU is lost to the whole process.
        if not ids or max(ids) >= rows or min(ids) < 0:
            raise ProbeError(f"the tokenizer gives tokens outside the {rows:,} embeddings")
        return ids

    def _render(self, prompt: str) -> str:
        if not self._template:
            return prompt
        from jinja2 import TemplateError

        try:
            # Templates that know the switch then answer at once instead of reasoning first.
            text = self._tokenizer.apply_chat_template(
                [{"role": "user", "content": prompt}],
                chat_template=self._template,
                tokenize=False,
                add_generation_prompt=True,
                enable_thinking=False,
            )
        except (TemplateError, *FAILURES) as error:
            raise ProbeError(f"the chat template fails: {first_line(error)}") from error
        if not isinstance(text, str) or len(text) > _MAX_RENDERED + len(prompt):
            raise ProbeError("the chat template makes too long a prompt")
        return text

    def _answer(self, rows: Sequence[Sequence[int]], *, max_new_tokens: int) -> list[str] | None:
        """Replies to one batch, None when the device has not the memory for it."""
        import torch

        ids, mask = self._padded(rows)
        width = ids.shape[1]
        try:
            with torch.inference_mode(), quiet():
                output = self._model.generate(
                    input_ids=ids.to(self._device),
                    attention_mask=mask.to(self._device),
                    max_new_tokens=self._room(width, wanted=max_new_tokens),
                    **self._decoding(),
                )
                replies = self._tokenizer.batch_decode(output[:, width:], skip_special_tokens=True)
        except torch.cuda.OutOfMemoryError:
            torch.cuda.empty_cache()
            return None
        except FAILURES as error:
            raise ProbeError(f"generation fails: {first_line(error)}") from error
        return [str(reply) for reply in replies]

    def _decoding(self) -> dict[str, Any]:
        if self._drawn is None:
            return {}
        return {"do_sample": True, "temperature": self._drawn[0], "top_k": 0, "top_p": 1.0}

    def _padded(self, rows: Sequence[Sequence[int]]) -> tuple[Any, Any]:
        """Tokens and mask, (batch, width), padded on the left."""
        import torch

        width = max(map(len, rows))
        ids = torch.full((len(rows), width), self._model.generation_config.pad_token_id)
        mask = torch.zeros_like(ids)
        for i, row in enumerate(rows):
            ids[i, width - len(row) :] = torch.tensor(row)
            mask[i, width - len(row) :] = 1
        return ids, mask

    def _room(self, width: int, *, wanted: int) -> int:
        limit = getattr(self._model.config.get_text_config(), "max_position_embeddings", None)
        room = limit - width if isinstance(limit, int) and limit > 0 else wanted
        if room < 1:
            raise ProbeError(f"a prompt of {width} tokens leaves no room in {limit} positions")
        return min(room, wanted)
