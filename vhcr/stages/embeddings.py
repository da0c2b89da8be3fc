"""Stage embeddings: words of the corpus -> word vectors and their coverage."""

from __future__ import annotations

import logging

from vhcr import layout
from vhcr.conversation import SPLITS
from vhcr.files import file_digest, write_json
from vhcr.params import Params
from vhcr.stages.common import stage_main

logger = logging.getLogger(__name__)


def run(params: Params, *, corpus: str) -> None:
    """Train word2vec on the training split, or pick the corpus's words from a file of vectors."""
    from vhcr import embeddings
    from vhcr.tokenisation.manifest import Manifest
    from vhcr.word_vectors import WordVectors

    own = params.corpus(corpus).embeddings
    path = layout.tokenised(corpus) / "utterances.parquet"
    Manifest.of(path.parent, path.name)
    counts = {split: embeddings.Sentences(path, split).word_counts() for split in SPLITS}
    if own.source == "corpus":
        logging.getLogger("gensim").setLevel(logging.WARNING)
        vectors = embeddings.train(embeddings.Sentences(path, "train"), counts["train"], own)
        origin = "word2vec trained on the training split"
    else:
        file = embeddings.locate(own.path)
        vectors = WordVectors.load(file, {word for split in SPLITS for word in counts[split]})
        origin = file.name
    known = set(vectors.index)
    by_split = {split: embeddings.coverage(counts[split], known) for split in SPLITS}
    if own.source == "file":
        embeddings.require_coverage(by_split["test"], own.min_coverage, origin)
    vectors.save(layout.embeddings(corpus) / "vectors.bin")
    metrics = {
        "source": own.source,
        "origin": origin,
        "num_vectors": len(vectors),
        "vector_size": vectors.vectors.shape[1],
        "token_coverage": by_split["test"]["token_coverage"],
        "type_coverage": by_split["test"]["type_coverage"],
        "splits": by_split,
        "sha256": file_digest(layout.embeddings(corpus) / "vectors.bin"),
    }
    write_json(layout.embeddings(corpus) / "metrics.json", metrics)
    logger.info(
        "%s: %s vectors of %s dimensions cover %.1f %% of the test split's words",
        corpus,
        f"{len(known):,}",
        metrics["vector_size"],
        100 * by_split["test"]["token_coverage"],
    )


def main() -> None:
    """Run the stage from the command line."""
    stage_main(run)


if __name__ == "__main__":
    main()
