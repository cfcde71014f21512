"""Where the offline picture world's weights are: the pipeline, its CLIP and its aesthetic head."""

from pathlib import Path

EMBEDDED = "emoji"
FOLDER = Path(__file__).parents[1] / "weights" / "pictures"
PIPELINE, CLIP, AESTHETIC = FOLDER / "pipeline", FOLDER / "clip", FOLDER / "aesthetic.safetensors"
TRAIN = "lmops-lab train-emoji-world"


def embedded(path: Path, instead: str) -> Path:
    """An embedded part that must be there.

    Raises:
        FileNotFoundError: it is not; the message says how to make it, or what to use instead.
    """
    if not path.exists():
        raise FileNotFoundError(
            f"the embedded part {path.name!r} of {EMBEDDED!r} is not at {str(path)!r}; train it with: {TRAIN}; or load "
            f"a published one such as {instead!r} (needs a network once)"
        )
    return path
