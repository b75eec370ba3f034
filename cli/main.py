"""The command `modelkin`: verbs, errors turned into exit codes.

Exit codes: 0 done; 1 findings at or above --fail-on; 2 usage or error; 3 finished, but coverage
below --min-coverage; 4 another scan holds the lock; 130 and 143 interrupted after a checkpoint;
141 whoever read stdout went away.
"""

from __future__ import annotations

import logging
import os
import sys
from importlib import import_module

import click

from .. import __version__
from ..lineage.errors import ModelkinError
from .output import say

logger = logging.getLogger(__name__)

INTERRUPTED = 130
BROKEN_PIPE = 141

VERBS = {
    "map": ("mapping", "Find, place and probe every descendant of a release."),
    "scan": ("scanning", "Fill the store from a Hub or a folder."),
    "infer": ("scanning", "Infer parents anew from the stored sketches."),
    "probe": ("probing", "Measure refusal of models in the store."),
    "prompts": ("prompts", "List, show, add and split prompt sets."),
    "tree": ("looking", "The tree below, or above, a model."),
    "why": ("looking", "All evidence for and against a model's parents."),
    "compare": ("comparing", "Two models side by side."),
    "similar": ("similar", "The models whose weights lie nearest to one."),
    "stripped": ("looking", "Descendants that lost what an ancestor had."),
    "survival": ("surviving", "What of a release outlived what was done to it."),
    "sql": ("querying", "Run one read-only query on the store."),
    "status": ("querying", "Last scan, coverage and backlog."),
    "nightly": ("nightly", "The scan of every night: list, visit, infer, publish, notify."),
    "notify": ("notifying", "Test, send or replay notifications."),
    "schedule": ("scheduling", "Print what runs the nightly scan."),
    "verify": ("verifying", "Hash what is stored again and check invariants."),
    "dump": ("dumping", "Write a snapshot of the store and publish it."),
    "restore": ("dumping", "Make the registry of a store from a snapshot."),
    "diff": ("dumping", "What changed between two scans."),
    "export": ("exporting", "The graph for other tools."),
    "correct": ("deciding", "Apply a reviewed file of asserted and denied edges."),
    "redact": ("deciding", "Mask a model and never read it again."),
    "ingest": ("deciding", "Take in edges or scores that others publish."),
    "serve": ("serving", "Serve the explorer: pages, an API, sandboxed SQL."),
    "demo": ("demo", "Map a release of the shipped ecosystem, offline."),
    "doctor": ("doctor", "Check token, disk, GPU and DuckDB."),
}


class Verbs(click.Group):
    """Loads a verb's module when the verb is used, so that look-ups start fast."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Verbs in the order of the documentation."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command object of a verb."""
        if cmd_name not in VERBS:
            return None
        module = import_module(f".{VERBS[cmd_name][0]}", package=__package__)
        command: click.Command = getattr(module, f"{cmd_name}_command")
        return command

    def invoke(self, ctx: click.Context) -> object:
        """Run a verb; an error of modelkin becomes words on stderr and its exit code."""
        try:
            return super().invoke(ctx)
        except ModelkinError as error:
            say(f"error: {error}")
            ctx.exit(error.exit_code)
        except KeyboardInterrupt:
            say("interrupted")
            ctx.exit(INTERRUPTED)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except BrokenPipeError:
            # The reader, `head` say, has all it wants; what is left in the buffer has no taker.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(BROKEN_PIPE)
        except Exception as error:
            # The last stop: 1 means findings, so nothing unforeseen may end with it.
            logger.debug("unforeseen", exc_info=True)
            say(f"error: {type(error).__name__}: {error}; -vv before the verb shows where")
            ctx.exit(ModelkinError.exit_code)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of verbs, without importing one of them."""
        with formatter.section("Verbs"):
            formatter.write_dl([(verb, text) for verb, (_, text) in VERBS.items()])


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="modelkin")
@click.option("-v", "--verbose", count=True, help="Say more on stderr; twice for debugging.")
def cli(verbose: int) -> None:
    """Provenance registry and lineage scanner for open-weight models."""
    level = (logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)]
    logging.basicConfig(level=level, format="%(levelname)s %(name)s: %(message)s")
    for noisy in ("httpx", "httpx2", "httpcore", "httpcore2", "aiohttp", "transformers"):
        logging.getLogger(noisy).setLevel(max(level, logging.WARNING))


def main() -> None:
    """Entry point of the console script."""
    cli()
