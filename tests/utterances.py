"""A few utterances as a task sees them: single English words where the data is, tones in their place."""

import numpy as np
import soundfile

from auricle.data.loader import Utterance
from tests.paths import DATA
from tests.speech import tone

WORDS = ("bed", "cat", "happy")


def utterance(seconds: float, text: str = "", rate: int = 16000, **options) -> Utterance:
    audio = tone(seconds, rate, pitch=150.0 + 40 * len(text))
    return Utterance(id=f"tone-{text}-{seconds}", audio=audio, sample_rate=rate, text=text, seconds=len(audio) / rate,
                     **options)


def words(count: int) -> list[Utterance]:
    """16 kHz; one word each, in turn, of different speakers and lengths."""
    found = [sorted((DATA / "speech_commands" / word).glob("*.wav")) for word in WORDS]
    if not all(found):
        return [utterance(0.5 + 0.07 * number, WORDS[number % 3]) for number in range(count)]
    chosen = []
    for number in range(count):
        path = found[number % 3][number // 3]
        audio, rate = soundfile.read(path, dtype="float32")
        audio = audio[:len(audio) - 613 * number]
        chosen.append(Utterance(id=path.stem, audio=np.ascontiguousarray(audio), sample_rate=rate,
                                text=WORDS[number % 3], seconds=len(audio) / rate))
    return chosen
