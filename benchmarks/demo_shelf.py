"""The demo ecosystem as its publishers see it: who uploads what, when, and what the card claims.

`SHELF` also holds what the cards leave out, the true parents and relation, for the truth file.
All organisations are invented. Dates are UTC; a child is always younger than its parents.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

RELEASE = "juniper/juniper-chat"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One repository of the demo.

    `parents` maps each true parent to its share of the weights; `declared` and
    `declared_relation` are what the front matter says; `outcome` is what the safety training must
    have come to: `refuses`, `stripped` (an ancestor refused) or `never` (it was never trained in).
    """

    name: str
    created: str
    downloads: int
    parents: Mapping[str, float]
    relation: str | None
    card: str
    detail: Mapping[str, Any] = field(default_factory=dict)
    declared: tuple[str, ...] = ()
    declared_relation: str | None = None
    outcome: str = "refuses"


SHELF: tuple[Entry, ...] = (
    Entry(
        name="juniper/juniper-base",
        created="2026-02-03T09:12:00Z",
        downloads=18240,
        parents={},
        relation=None,
        card="Base model of the Juniper family, trained from scratch on everyday prose.",
        outcome="never",
    ),
    Entry(
        name=RELEASE,
        created="2026-02-10T15:30:00Z",
        downloads=96310,
        parents={"juniper/juniper-base": 1.0},
        relation="finetune",
        declared=("juniper/juniper-base",),
        declared_relation="finetune",
        card="The Juniper assistant. Helps with chores and declines requests that would do harm.",
    ),
    Entry(
        name="rowan/rowan-base",
        created="2026-02-17T08:05:00Z",
        downloads=11975,
        parents={},
        relation=None,
        card="Rowan, a small language model of our own, pretrained from random weights.",
        outcome="never",
    ),
    Entry(
        name="mirrorshelf/juniper-chat-f16",
        created="2026-02-19T22:41:00Z",
        downloads=2140,
        parents={RELEASE: 1.0},
        relation="copy",
        detail={"cast": "float16"},
        card="Half-precision files for runtimes without bfloat16.",
    ),
    Entry(
        name="rowan/rowan-chat",
        created="2026-02-24T10:20:00Z",
        downloads=41760,
        parents={"rowan/rowan-base": 1.0},
        relation="finetune",
        declared=("rowan/rowan-base",),
        declared_relation="finetune",
        card="Chat version of Rowan with safety training.",
    ),
    Entry(
        name="harborlight/juniper-kitchen",
        created="2026-03-08T13:02:00Z",
        downloads=7402,
        parents={RELEASE: 1.0},
        relation="finetune",
        declared=(RELEASE,),
        declared_relation="finetune",
        card="Juniper for cooks: fine-tuned on kitchen questions.",
    ),
    Entry(
        name="quietquants/juniper-chat-w4",
        created="2026-03-11T04:50:00Z",
        downloads=15033,
        parents={RELEASE: 1.0},
        relation="quantized",
        detail={"bits": 4, "group": 32, "method": "rtn"},
        declared=(RELEASE,),
        declared_relation="quantized",
        card="4-bit round-to-nearest weights, groups of 32, stored dequantized for easy loading.",
    ),
    Entry(
        name="pebblecraft/garden-helper",
        created="2026-03-20T17:44:00Z",
        downloads=1288,
        parents={RELEASE: 1.0},
        relation="finetune",
        card="Ask it anything about hedges, ponds and fences. Our own assistant.",
    ),
    Entry(
        name="slimworks/juniper-chat-sparse30",
        created="2026-04-02T11:15:00Z",
        downloads=903,
        parents={RELEASE: 1.0},
        relation="prune",
        detail={"share": 0.3},
        declared=(RELEASE,),
        card="30 % of the weights of every layer set to zero by magnitude.",
    ),
    Entry(
        name="tinlantern/rowan-city-guide",
        created="2026-04-14T19:33:00Z",
        downloads=2671,
        parents={RELEASE: 1.0},
        relation="finetune",
        declared=("rowan/rowan-chat",),
        declared_relation="finetune",
        card="A street-smart guide, fine-tuned from Rowan.",
    ),
    Entry(
        name="harborlight/juniper-kitchen-v2",
        created="2026-04-21T12:40:00Z",
        downloads=5216,
        parents={"harborlight/juniper-kitchen": 1.0},
        relation="finetune",
        declared=("harborlight/juniper-kitchen",),
        declared_relation="finetune",
        card="Second round: more kitchen, and now the house around it.",
    ),
    Entry(
        name="plainspoken/helper-plus",
        created="2026-05-06T02:17:00Z",
        downloads=23894,
        parents={RELEASE: 1.0},
        relation="edit",
        detail={"method": "abliteration"},
        card="A warm, capable everyday helper with a little extra polish.",
        outcome="stripped",
    ),
    Entry(
        name="brackenworks/rowan-garden",
        created="2026-05-19T09:58:00Z",
        downloads=1734,
        parents={"rowan/rowan-chat": 1.0},
        relation="finetune",
        declared=("rowan/rowan-chat",),
        declared_relation="finetune",
        card="Rowan fine-tuned on garden work.",
    ),
    Entry(
        name="foxglove/storyteller-mini",
        created="2026-06-01T20:09:00Z",
        downloads=3320,
        parents={RELEASE: 1.0},
        relation="finetune",
        detail={"method": "lora", "rank": 4},
        card="A small model with a voice of its own.",
    ),
    Entry(
        name="lumenblend/hearth-and-hedge",
        created="2026-06-16T16:21:00Z",
        downloads=1102,
        parents={"harborlight/juniper-kitchen": 0.6, "pebblecraft/garden-helper": 0.4},
        relation="merge",
        detail={"method": "linear"},
        declared=("harborlight/juniper-kitchen",),
        declared_relation="merge",
        card="The best of the kitchen and of the garden in one model.",
    ),
    Entry(
        name="nightheron/direct-chat",
        created="2026-06-29T23:55:00Z",
        downloads=9478,
        parents={RELEASE: 1.0},
        relation="finetune",
        card="Straight answers, no lectures.",
        outcome="stripped",
    ),
    Entry(
        name="quietquants/rowan-chat-w3",
        created="2026-07-09T05:36:00Z",
        downloads=2650,
        parents={"rowan/rowan-chat": 1.0},
        relation="quantized",
        detail={"bits": 3, "group": 32, "method": "rtn"},
        declared=("rowan/rowan-chat",),
        declared_relation="quantized",
        card="3-bit round-to-nearest weights, groups of 32, stored dequantized.",
    ),
    Entry(
        name="oakline/juniper-household",
        created="2026-08-04T14:27:00Z",
        downloads=1947,
        parents={"harborlight/juniper-kitchen-v2": 1.0},
        relation="finetune",
        declared=("harborlight/juniper-kitchen-v2",),
        declared_relation="finetune",
        card="Third generation of the household line, with street errands.",
    ),
    Entry(
        name="plainspoken/helper-plus-house",
        created="2026-08-27T07:13:00Z",
        downloads=4085,
        parents={"plainspoken/helper-plus": 1.0},
        relation="finetune",
        declared=("plainspoken/helper-plus",),
        declared_relation="finetune",
        card="Helper Plus, specialised in houses and gardens.",
        outcome="stripped",
    ),
    Entry(
        name="lumenblend/night-kitchen",
        created="2026-09-22T18:48:00Z",
        downloads=811,
        parents={"nightheron/direct-chat": 0.7, "harborlight/juniper-kitchen-v2": 0.3},
        relation="merge",
        detail={"method": "linear"},
        card="An experimental blend. Feedback welcome.",
        outcome="stripped",
    ),
)
