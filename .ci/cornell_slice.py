"""Cut the first conversations out of the Cornell archive, in its own format, for a quick run on real data.

    python .ci/cornell_slice.py ARCHIVE NUM_CONVERSATIONS PROJECT

writes slice.zip into the folder PROJECT and points its params.yaml there, with networks and schedules that
take seconds. Nothing of it is ever committed.
"""

import sys
import zipfile
from pathlib import Path, PurePosixPath

import yaml

SMALL = {
    "tokenisation": {"vocabulary_size": 2000, "min_count": 2},
    "validation": {"max_unknown_fraction": 0.3, "max_skipped_fraction": 0.05, "min_conversations": 10},
    "embeddings": {"vector_size": 25, "epochs": 2},
    "model": {
        "embedding_size": 32,
        "encoder_size": 48,
        "context_size": 48,
        "decoder_size": 64,
        "conversation_encoder_size": 48,
        "z_utt_size": 8,
        "z_conv_size": 8,
    },
    "system": {},
    "training": {"max_steps": 30, "kl_annealing_steps": 20, "learning_rate": 0.003},
    "evaluation": {"importance_samples": 5, "importance_conversations": 20, "bootstrap_samples": 100},
    "generation": {},
}


def cut(archive: Path, num_conversations: int, target: Path) -> None:
    """The first conversations and the lines they name; the other files of the archive as they are."""
    with zipfile.ZipFile(archive) as source:
        members = {PurePosixPath(name).name: name for name in source.namelist()}
        conversations = source.read(members["movie_conversations.txt"]).splitlines(keepends=True)
        chosen = conversations[:num_conversations]
        wanted = {part for line in chosen for part in line.rsplit(b"[", 1)[1].split(b"'")[1::2]}
        lines = source.read(members["movie_lines.txt"]).splitlines(keepends=True)
        kept = [line for line in lines if line.split(b" ", 1)[0] in wanted]
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as out:
            out.writestr(members["movie_conversations.txt"], b"".join(chosen))
            out.writestr(members["movie_lines.txt"], b"".join(kept))
    print(f"{target.name}: {len(chosen)} conversations, {len(kept)} lines")


def main() -> None:
    """See above."""
    archive, num_conversations, project = Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    cut(archive, num_conversations, project / "slice.zip")
    path = project / "params.yaml"
    params = yaml.safe_load(path.read_text(encoding="utf-8"))
    params["active"] = {"corpora": ["cornell-small"], "systems": ["hred", "vhcr-ud"], "seeds": [0]}
    source = {"reader": "cornell", "path": "slice.zip"}
    params["corpora"]["cornell-small"] = {"source": source, **SMALL}
    path.write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")


if __name__ == "__main__":
    main()
