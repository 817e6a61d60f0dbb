"""Texts scored by Spark's workers, and the perplexity of them all to the integer of one process.

    pip install lmrs[arrow] pyspark        # and Java 17
    python examples/spark_scores.py MODEL TEXTS.parquet --column text

The callable is the one that Ray Data and datasets take (`lmrs.eval.ArrowScorer`); Spark calls its `batches`.
"""

import argparse
import os
import sys
from pathlib import Path

from pyspark.sql import SparkSession

import lmrs
from lmrs.eval import ArrowScorer, score_corpus
from lmrs.eval.arrow import SPARK, totals


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("texts", type=Path)
    parser.add_argument("--column", default="text")
    parser.add_argument("--window", type=int)
    given = parser.parse_args()
    # What the workers inherit: this Python, and one thread each, as Spark counts them.
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    os.environ.setdefault("LMRS_NUM_THREADS", "1")
    spark = SparkSession.builder.master("local[2]").appName("lmrs").config("spark.ui.enabled", "false").getOrCreate()
    frame = spark.read.parquet(str(given.texts)).select(given.column).repartition(4)
    scorer = ArrowScorer(model=str(given.model), column=given.column, window=given.window)
    scored = frame.mapInArrow(scorer.batches, f"{given.column} string, {SPARK}")
    by_spark = totals([scored.toArrow()])
    spark.stop()
    here = score_corpus(lmrs.Engine(lmrs.load(given.model)), [given.texts], column=given.column, window=given.window)
    print(f"Spark: {by_spark}\nhere:  {here}\nequal: {by_spark == here}; perplexity {here.perplexity:.6f}")


if __name__ == "__main__":
    main()
