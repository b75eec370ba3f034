"""What is found by id is what the views of schema v1 say by name."""

from __future__ import annotations

import shutil
from pathlib import Path

from modelkin.store import Registry


def test_what_is_found_by_id_is_what_the_views_say(small_store: Path) -> None:
    with Registry.open(small_store, read_only=True) as registry:
        for row in registry.sql("FROM models").to_arrow_table().to_pylist():
            found = registry.describe(row["model"])
            for name in ("created_at", "last_modified"):
                found[name] = found[name] and found[name].replace(tzinfo=None)
            assert found == row
            scores = registry.sql("FROM scores WHERE model = ?", [row["model"]]).fetchall()
            assert len(registry.scores_of(row["model"])) == len(scores)
        assert [one.sha for one in registry.scores_of("dave/freed")] == [
            sha
            for (sha,) in registry.sql(
                "SELECT sha FROM scores WHERE model = 'dave/freed' "
                "ORDER BY scored_at DESC, probe, prompt_set, judge"
            ).fetchall()
        ]


def test_a_tree_of_a_store_without_the_edges_of_its_closure(
    small_store: Path, folder: Path
) -> None:
    shutil.copytree(small_store, folder)
    with Registry.open(folder) as registry:
        whole = registry.tree("lab/base")
        with registry._database.transaction() as connection:
            connection.execute("DELETE FROM internal.closure_edges")
        assert registry.tree("lab/base") == whole
