import io

import numpy as np
import pytest
import soundfile

from auricle.core.errors import UsageError
from auricle.data.tokenizers import Characters
from auricle.inference.live import blocks_of_file, blocks_of_pipe, live
from auricle.tasks.ctc.config import Config as CtcConfig
from auricle.tasks.hybrid.config import Config
from auricle.tasks.parts.assembly import assemble
from tests.models.conformer.test_model import tiny as conformer
from tests.tasks.hybrid.test_task import tiny


class Trickle(io.RawIOBase):
    """A pipe that gives seven bytes at a time, so that samples are torn."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)

    def read(self, size: int = -1) -> bytes:
        return self._data.read(7)


def test_a_pipe_gives_every_sample_whatever_pieces_it_comes_in():
    samples = np.random.default_rng(0).integers(-(2**15), 2**15, 5001, np.int16)
    data = samples.astype("<i2").tobytes()
    for pipe in (io.BytesIO(data + b"x"), Trickle(data + b"x")):
        found = np.concatenate(list(blocks_of_pipe(pipe, 16_000)))
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found * 32768, samples)


def test_a_file_is_played_in_blocks(tmp_path):
    audio = np.linspace(-0.5, 0.5, 3210, dtype=np.float32)
    soundfile.write(tmp_path / "a.wav", audio, 16_000, subtype="FLOAT")
    blocks = list(blocks_of_file(tmp_path / "a.wav", 16_000))
    assert [len(block) for block in blocks] == [1600, 1600, 10]
    np.testing.assert_array_equal(np.concatenate(blocks), audio)


def test_a_file_and_a_pipe_of_the_same_samples_are_heard_alike(tmp_path):
    assembly = assemble(tiny(), Config(beam_size=2), Characters("abc "))
    samples = np.random.default_rng(0).integers(-3000, 3000, 20_000, np.int16)
    soundfile.write(tmp_path / "a.wav", samples, 16_000)
    file = list(live(assembly, blocks_of_file(tmp_path / "a.wav", 16_000), chunk_seconds=0.32))
    pipe = list(live(assembly, blocks_of_pipe(io.BytesIO(samples.tobytes()), 16_000), chunk_seconds=0.32))
    assert file == pipe
    assert file[-1].final


def test_what_cannot_listen_and_a_wrong_chunk_are_one_sentence():
    blocks = [np.zeros(1600, np.float32)]
    with pytest.raises(UsageError, match="the task 'ctc' cannot listen to a stream; tasks that can: hybrid"):
        list(live(assemble(conformer(), CtcConfig(), Characters("abc ")), blocks))
    with pytest.raises(UsageError, match=r"--chunk-seconds: a chunk of 0\.5 s; expected a multiple of 0\.08 s"):
        list(live(assemble(tiny(), Config(), Characters("abc ")), blocks, chunk_seconds=0.5))
