"""Files that nobody should load: pickles that would call foreign code.

The weight file that was chosen is walked when its header is read. The other pickles of a
repository are walked here, as far as the model's budget of requests goes, for whoever loads the
repository may load any of them.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import replace

from ..lineage.errors import ModelkinError, UnsafePickle
from ..lineage.records import Clue, Finding, ModelInfo
from ..lineage.safety.findings import finding_id
from .bytes import Traffic
from .formats.choosing import pickles_of
from .formats.pickle_values import DANGEROUS
from .formats.torch_file import read_torch_header
from .sources.base import Source

logger = logging.getLogger(__name__)

UNSAFE_FILE = "unsafe_file"
MAX_FILES = 4
REQUESTS_EACH = 4
MAX_REQUESTS = 40


async def find_unsafe(
    source: Source, info: ModelInfo, *, read: Collection[str], traffic: Traffic
) -> list[UnsafePickle]:
    """Walk the pickles of a repository that were not read, weights first.

    Parameters
    ----------
    read : paths that were walked already.
    traffic : what the model has cost; no file is begun that could take it above its requests.

    Returns
    -------
    One error a file that would run something. A file that is malformed or cannot be reached is no
    finding.
    """
    found = []
    waiting = [path for path in pickles_of(f.path for f in info.files) if path not in read]
    for path in waiting[:MAX_FILES]:
        if traffic.requests + REQUESTS_EACH > MAX_REQUESTS:
            break
        spent = Traffic()
        try:
            opened = await source.open(info, path, traffic=spent)
            await read_torch_header(opened, lenient=True)
        except UnsafePickle as error:
            found.append(error)
        except (ModelkinError, OSError) as error:
            logger.debug("%s: %s is no pickle that could be walked: %s", info.name, path, error)
        traffic.add(requests=spent.requests, size=spent.bytes)
    return found


def unsafe_finding(model: str, error: UnsafePickle) -> Finding:
    """The finding that a file's error leads to; high where the name can run something."""
    dangerous = error.name.split(".")[0] in DANGEROUS
    empty = Finding(
        finding_id=finding_id(UNSAFE_FILE, model=model, ancestor=error.path),
        kind=UNSAFE_FILE,
        severity="high" if dangerous else "medium",
        model=model,
        ancestor=None,
        value=None,
        ci_low=None,
        ci_high=None,
        q_value=None,
        status="new",
    )
    told = "byte at which unpickling would reach it"
    return replace(
        empty,
        clues=(Clue(kind="pickle", statistic=told, value=float(error.offset or 0)),),
        detail={
            "file": error.path,
            "opcode": error.opcode,
            "name": error.name,
            "offset": error.offset,
        },
    )
