"""A snapshot read in place by another engine: the same descendants, the same survival.

    python benchmarks/snapshot_spark.py SNAPSHOT        (needs pyspark and Java)

Spark reads the Parquet folders of the snapshot; DuckDB answers the same from its `registry.duckdb`.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import duckdb
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as f

PROBE = "selective_refusal"

# What v1.survival is made of, for engines that have no macros.
SURVIVAL = """
WITH last AS (
    SELECT child, arg_max(relation, coalesce(confidence, 0)) AS relation
    FROM v1.edges WHERE inferred GROUP BY child
)
SELECT l.relation, count(*) AS models, sum(s.value) AS total
FROM v1.closure k
JOIN v1.scores s ON s.model = k.descendant AND s.probe = '{probe}' AND s.status = 'ok'
JOIN last l ON l.child = k.descendant
WHERE k.ancestor = '{root}' GROUP BY l.relation ORDER BY l.relation
"""


def main() -> None:
    """Ask both, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("snapshot", type=Path)
    folder = parser.parse_args().snapshot.resolve()
    with duckdb.connect(str(folder / "registry.duckdb"), read_only=True) as connection:
        ((root, most),) = connection.execute(
            "SELECT ancestor, count(*) FROM v1.closure GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 1"
        ).fetchall()
        quoted = root.replace("'", "''")
        own = connection.execute(SURVIVAL.format(probe=PROBE, root=quoted)).fetchall()
    spark = (
        SparkSession.builder.master("local[2]")
        .config("spark.driver.memory", "3g")
        .config("spark.ui.enabled", "false")
        .config("spark.sql.shuffle.partitions", "8")
        .getOrCreate()
    )
    began = time.perf_counter()
    kin = table(spark, folder, "closure").where(f.col("ancestor") == root)
    counted = kin.count()
    took = time.perf_counter() - began
    assert counted == most, (counted, most)
    print(f"descendants of {root}: {counted:,}, the same by Spark in {took:.1f} s")
    began = time.perf_counter()
    theirs = [tuple(row) for row in survival(spark, folder, kin).collect()]
    took = time.perf_counter() - began
    assert [row[:2] for row in theirs] == [row[:2] for row in own], (theirs, own)
    for one, other in zip(theirs, own, strict=True):
        assert abs(one[2] - other[2]) < 1e-6 * max(1.0, abs(other[2])), (one, other)
        print(f"  {one[0]}: {one[1]:,} models, mean {one[2] / one[1]:.4f}")
    print(f"survival by relation: the same by Spark in {took:.1f} s")
    spark.stop()


def table(spark: SparkSession, folder: Path, name: str) -> DataFrame:
    """A table of the snapshot, read where it lies."""
    return spark.read.parquet(str(folder / "tables" / name))


def survival(spark: SparkSession, folder: Path, kin: DataFrame) -> DataFrame:
    """What each relation left of a probe over some descendants."""
    edges = table(spark, folder, "edges").where("inferred")
    last = edges.groupBy(f.col("child").alias("descendant")).agg(
        f.max_by("relation", f.coalesce("confidence", f.lit(0.0))).alias("relation")
    )
    scores = table(spark, folder, "scores").where(
        (f.col("probe") == PROBE) & (f.col("status") == "ok")
    )
    scores = scores.select(f.col("model").alias("descendant"), "value")
    return (
        kin.join(scores, "descendant")
        .join(last, "descendant")
        .groupBy("relation")
        .agg(f.count("*"), f.sum("value"))
        .orderBy("relation")
    )


if __name__ == "__main__":
    main()
