"""Files of a latent space for other tools: Parquet for Embedding Atlas, and TensorBoard's projector."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from vhcr.explore.atlas import LATENT, Atlas, Level
from vhcr.explore.points import Projection
from vhcr.files import write_json, write_parquet, write_text

PROJECTOR = """\
embeddings {{
  tensor_name: "{name}"
  tensor_path: "tensors.tsv"
  metadata_path: "metadata.tsv"
}}
"""  # TensorBoard's ProjectorConfig as protobuf text


def write(
    atlas: Atlas, folder: Path, level: Level = "conversation", projection: Projection = "pca"
) -> list[Path]:
    """Write ``latents.parquet``, ``topics.json``, and the projector's three files; equal input, equal bytes.

    Raises:
        ParameterError: the model has no such latent.
    """
    table = atlas.table(level, projection)
    write_parquet(
        folder / "latents.parquet", {name: table[name] for name in table.column_names}, table.schema
    )
    topics = [
        {
            "topic": topic.number,
            "size": topic.size,
            "words": topic.words,
            "typical": [atlas.corpus.ids[number] for number in topic.typical],
        }
        for topic in atlas.topics
    ]
    write_json(folder / "topics.json", topics)
    latents = (map("{:.6g}".format, row) for row in table[LATENT[level]].to_pylist())
    write_text(folder / "tensors.tsv", "".join("\t".join(row) + "\n" for row in latents))
    write_text(folder / "metadata.tsv", _metadata(table.drop_columns([LATENT[level], "neighbours"])))
    write_text(folder / "projector_config.pbtxt", PROJECTOR.format(name=LATENT[level]))
    names = ("latents.parquet", "topics.json", "tensors.tsv", "metadata.tsv", "projector_config.pbtxt")
    return [folder / name for name in names]


def _metadata(table: pa.Table) -> str:
    """Tab-separated with a header; white space within a cell becomes one space each, since lines are rows."""
    rows = zip(*(column.to_pylist() for column in table.columns), strict=True)
    lines = (table.column_names, *rows)
    return "".join(
        "\t".join("" if cell is None else " ".join(str(cell).split()) for cell in row) + "\n" for row in lines
    )
