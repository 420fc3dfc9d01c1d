"""Synthetic speech by espeak-ng: any number of utterances by many voices, without a download, the same from one seed.

A voice is a language or accent spoken by a variant of the synthesiser (`en-us+f3`). Variants are held out whole, in all
their accents, and so are sentences: what `dev` and `test` hear was never heard, by ear or by word, in `train`.

espeak-ng is GPL-3.0-or-later. It comes with the extra [synth], and only this file imports it.
"""

import _ctypes
import ctypes
import io
import multiprocessing.util
import shutil
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
import soundfile
from pydantic import Field, model_validator

from auricle.core.errors import ConfigError, DataError, MissingExtra, nearest
from auricle.core.frame import Block
from auricle.data.audio import resample
from auricle.data.draws import key
from auricle.data.grammar import HELD_OUT_PERCENT, Grammar, Lines, Text, split_of
from auricle.data.sources import Candidate

NOT_SPEECH = {"whisper", "whisperf", "croak", "Demonic", "UniRobot", "anikaRobot", "robosoft", "robosoft2", "robosoft3",
              "robosoft4", "robosoft5", "robosoft6", "robosoft7", "robosoft8", "zac"}
"""Variants that are whispers, croaks, robots and one caricature (zac: 240 to 390 Hz, each formant raised by 45 %)."""
ATTEMPTS = 1000

Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(gt=0)]
Rate = Annotated[int, Field(ge=80, le=450)]
Pitch = Annotated[int, Field(ge=0, le=99)]


class Config(Block):
    kind: Literal["synth"] = "synth"
    utterances: Positive = 4000
    """Of the split `train`; with the bundled grammar about two seconds each."""
    dev_utterances: Count = 200
    test_utterances: Count = 400
    seed: int = 42
    languages: Annotated[list[str], Field(min_length=1)] = ["en-us", "en-gb"]
    """Languages and accents of espeak-ng (en-us, en-gb, en-gb-scotland, de, he …); each variant speaks all of them."""
    variants: list[str] = []
    """Variants of espeak-ng (f3, Annie, klatt4 …); empty is all that sound like speech."""
    dev_voices: Count = 5
    """Variants heard in `dev` only …"""
    test_voices: Count = 10
    """… and in `test` only."""
    words_per_minute: tuple[Rate, Rate] = (140, 220)
    pitch: tuple[Pitch, Pitch] = (30, 70)
    """50 is the variant's own."""
    text: Text = Text(grammar="game_commands")
    sample_rate: Annotated[int, Field(ge=8000, le=48000)] = 16000
    format: Literal["wav", "flac"] = "wav"
    """flac takes two thirds of the disk, and four times as long to read."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name in ("words_per_minute", "pitch"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name} is [{low}, {high}]; expected [lowest, highest]")
        for split in HELD_OUT_PERCENT:
            if self.size(split) and not self.voices(split):
                raise ValueError(f"{split}_utterances is {self.size(split)} with {split}_voices 0; give it voices")
        return self

    def size(self, split: str) -> int:
        return {"train": self.utterances, "dev": self.dev_utterances, "test": self.test_utterances}[split]

    def voices(self, split: str) -> int:
        return {"dev": self.dev_voices, "test": self.test_voices}[split]


def candidates(config: Config) -> Iterator[Candidate]:
    text = config.text.open()
    for language in config.languages:
        _language_file(language)
    for split, variants in _variants_by_split(config).items():
        for number in range(config.size(split)):
            draw = _Draws(config.seed, split, number)
            language = draw.one_of(config.languages, "language")
            yield Candidate(
                id=f"{split}-{number:06d}", text=_sentence(config, text, split, number), split=split,
                speaker=f"{language}+{variants[number % len(variants)]}", language=language.partition("-")[0],
                extra={"words_per_minute": str(draw.between(*config.words_per_minute, "words_per_minute")),
                       "pitch": str(draw.between(*config.pitch, "pitch"))})


def render(config: Config, candidate: Candidate, folder: Path) -> Path:
    """Speaks the candidate into FOLDER/SPLIT/ID.wav; the same samples whatever was spoken before."""
    language, _, variant = candidate.speaker.partition("+")
    speech, rate = _speak(candidate.text, language, variant, int(candidate.extra["words_per_minute"]),
                          int(candidate.extra["pitch"]))
    path = folder / candidate.split / f"{candidate.id}.{config.format}"
    path.parent.mkdir(parents=True, exist_ok=True)
    audio = resample(speech.astype(np.float32) / 32768, rate, config.sample_rate)
    encoded = io.BytesIO()
    soundfile.write(encoded, audio, config.sample_rate, subtype="PCM_16", format=config.format)
    path.write_bytes(encoded.getbuffer())  # in one go: libsndfile's own small writes to a file take three times as long
    return path


class _Draws:
    """The draws of one utterance, each a hash of its name."""

    def __init__(self, *parts: object) -> None:
        self.parts = parts

    def between(self, low: int, high: int, name: str) -> int:
        return low + key("synth", name, *self.parts) % (high - low + 1)

    def one_of(self, values: list[str], name: str) -> str:
        return values[key("synth", name, *self.parts) % len(values)]


def _sentence(config: Config, text: Grammar | Lines, split: str, number: int) -> str:
    """A sentence that belongs to the split. A split without utterances holds no sentence back from training."""
    held_out = {name: percent for name, percent in HELD_OUT_PERCENT.items() if config.size(name)}
    for attempt in range(ATTEMPTS):
        sentence = text.sentence("synth", config.seed, split, number, attempt)
        if split_of(sentence, held_out) == split:
            return sentence
    raise DataError(f"synth: no sentence for the split '{split}', after {', '.join(held_out) or 'none'} were held out "
                    "by the tenth; give 'text' more sentences, or set dev_utterances and test_utterances to 0")


def _variants_by_split(config: Config) -> dict[str, list[str]]:
    known = sorted(path.name for path in (_espeak_data() / "voices" / "!v").iterdir())
    if unknown := [name for name in config.variants if name not in known]:
        raise ConfigError(f"synth.variants: no variant '{unknown[0]}'; {nearest(unknown[0], known)}")
    variants = config.variants or [name for name in known if name not in NOT_SPEECH]
    order = sorted(variants, key=lambda name: key("synth", config.seed, "voice", name))
    test, dev = config.test_voices, config.dev_voices
    if len(order) <= test + dev:
        raise ConfigError(f"synth: {len(order)} variants, of which {test} are for test and {dev} for dev; none is left "
                          "for training. Lower test_voices and dev_voices, or name more variants")
    return {"train": order[test + dev :], "dev": order[test : test + dev], "test": order[:test]}


@cache
def _espeak_data() -> Path:
    """The folder of voices and dictionaries that comes with the library. Raises MissingExtra."""
    try:
        import espeakng_loader
    except ModuleNotFoundError:
        raise MissingExtra("synthetic speech", "synth") from None
    return Path(espeakng_loader.get_data_path())


def _language_file(language: str) -> Path:
    files = _language_files()
    if language not in files:
        raise ConfigError(f"synth.languages: no language '{language}'; {nearest(language, files)}")
    return files[language]


@cache
def _language_files() -> dict[str, Path]:
    """Language tag → the file that defines it; the first `language` line is the file's own tag."""
    found = {}
    for path in sorted((_espeak_data() / "lang").rglob("*")):
        if path.is_file():
            tags = [line.split()[1] for line in path.read_text(encoding="utf-8").splitlines()
                    if line.startswith("language ")]
            found.setdefault(tags[0].lower(), path)
    return found


# From here: espeak-ng's C interface (speak_lib.h).

SYNCHRONOUS, DO_NOT_EXIT, UTF8 = 2, 0x8000, 1
RATE, PITCH = 1, 3
BUFFER_MILLISECONDS = 2000

_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)


def _speak(text: str, language: str, variant: str, words_per_minute: int, pitch: int) -> tuple[np.ndarray, int]:
    """((T,) int16, sample rate). Raises DataError when the library refuses.

    The library keeps state from one utterance to the next (flutter, echo, noise). To hear the same whatever came
    before, it is loaded anew for each, which takes under a millisecond, and its random numbers are seeded.
    """
    import espeakng_loader

    library = ctypes.CDLL(espeakng_loader.get_library_path())
    pieces: list[bytes] = []

    @_Callback
    def keep(samples: int | None, count: int, _events: int) -> int:
        if samples:
            pieces.append(ctypes.string_at(samples, 2 * count))
        return 0

    try:
        rate = library.espeak_Initialize(SYNCHRONOUS, BUFFER_MILLISECONDS, bytes(_small_data(language)), DO_NOT_EXIT)
        library.espeak_ng_SetRandSeed(ctypes.c_long(1))
        ctypes.CDLL(None).srand(1)
        library.espeak_SetSynthCallback(keep)
        refused = rate <= 0 or library.espeak_SetVoiceByName(f"{language}+{variant}".encode())
        library.espeak_SetParameter(RATE, words_per_minute, 0)
        library.espeak_SetParameter(PITCH, pitch, 0)
        spoken = text.encode()
        if refused or library.espeak_Synth(spoken, len(spoken) + 1, 0, 1, 0, UTF8, None, None):
            raise DataError(f"synth: espeak-ng cannot speak {text!r} as '{language}+{variant}'")
    finally:
        library.espeak_Terminate()
        _ctypes.dlclose(library._handle)
    return np.frombuffer(b"".join(pieces), np.int16), rate


@cache
def _small_data(language: str) -> Path:
    """The library's data with one language alone: it reads every language it finds when it looks for a voice."""
    folder = Path(tempfile.mkdtemp(prefix="auricle-espeak-"))
    multiprocessing.util.Finalize(None, shutil.rmtree, (folder,), {"ignore_errors": True}, exitpriority=0)
    for path in _espeak_data().iterdir():
        if path.name != "lang":
            (folder / path.name).symlink_to(path)
    (folder / "lang").mkdir()
    (folder / "lang" / language).symlink_to(_language_file(language))
    return folder
