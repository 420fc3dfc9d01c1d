"""AN4 where it is, and corpora in its layout: features that stand for speech."""

from pathlib import Path

import numpy as np

from tests.paths import DATA

AN4 = DATA / "an4_mfcc"


def write_mfc(path: Path, features: np.ndarray) -> Path:
    """(F, M) as CMU Sphinx writes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = features.astype(">f4")
    path.write_bytes(values.size.to_bytes(4, "big") + values.tobytes())
    return path


def cepstra(frames: int, seed: int = 0, width: int = 13) -> np.ndarray:
    """(F, M) float32"""
    return np.random.default_rng(seed).standard_normal((frames, width)).astype(np.float32)


def write_an4(folder: Path, speakers: int = 4, each: int = 3, name: str = "an4_train") -> Path:
    """A corpus in the layout of AN4: utterances of 0.5 s and longer, spelled words."""
    (folder / "etc").mkdir(parents=True, exist_ok=True)
    fileids, transcripts = [], []
    for speaker in range(speakers):
        for number in range(each):
            utterance = f"cen{number}-{name[4:6]}{speaker}-b"
            fileids.append(f"an4_clstk/{name[4:6]}{speaker}/{utterance}")
            transcripts.append(f"{'YES' if number % 2 else 'R U B'} ({utterance})")
            frames = 50 + 10 * number + 3 * speaker
            write_mfc(folder / "feat" / f"{fileids[-1]}.mfc", cepstra(frames, seed=100 * speaker + number))
    (folder / "etc" / f"{name}.fileids").write_text("\n".join(fileids) + "\n")
    (folder / "etc" / f"{name}.transcription").write_text("\n".join(transcripts) + "\n")
    return folder


def an4(folder: Path) -> Path:
    """The real corpus, or one in its layout."""
    return AN4 if AN4.is_dir() else write_an4(folder)
