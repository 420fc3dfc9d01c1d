"""What recordings may be like that no one would train on: every decoder says something, or nothing, and none fails."""

import math
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch

from auricle.core.config import EvaluationConfig
from auricle.data.tokenizers import Characters
from auricle.inference.transcribe import transcribe
from auricle.tasks.ctc.config import Config as Ctc
from auricle.tasks.hybrid.config import Config
from auricle.tasks.parts.assembly import assemble
from auricle.train.evaluate import Evaluation, Scored
from tests.models.conformer.test_model import tiny as tiny_conformer
from tests.speech import tone
from tests.tasks.hybrid.test_task import EVERY, example, tiny
from tests.utterances import utterance, words

RATE = 16_000
CLIPS = {
    "nothing": np.zeros(0),
    "shorter than a frame": tone(0.02, RATE),
    "one sample less than a frame": tone(0.025, RATE)[:-1],
    "one frame": tone(0.025, RATE),
    "silence": np.zeros(RATE),
    "silence with an offset": np.full(RATE, 0.25),
    "clipped": np.clip(40 * tone(1.0, RATE), -1, 1),
    "a click": np.eye(1, RATE, 8000)[0],
    "noise at full scale": np.random.default_rng(0).uniform(-1, 1, RATE),
}


def clip(name):
    audio = CLIPS[name].astype(np.float32)
    return replace(utterance(0.1, "cat"), id=name, audio=audio, seconds=len(audio) / RATE)


@pytest.mark.parametrize("decoder", EVERY)
def test_every_decoder_answers_every_recording_and_invents_nothing_where_there_is_no_frame(decoder):
    task, model = example()
    model.double().eval()
    batch = task.collate([clip(name) for name in CLIPS])
    lengths = model.output_lengths(torch.tensor([len(audio) for audio in CLIPS.values()])).tolist()
    assert 0 in lengths
    said = task.predict(model, replace(batch, features=batch.features.double()), decoder)
    for one, frames in zip(said, lengths, strict=True):
        assert one.text == "" or frames > 0, one.id
        assert all(math.isfinite(score) for score in one.scores.values()), one.id
    alone = [task.predict(model, replace(one, features=one.features.double()), decoder)[0].text
             for one in (task.collate([clip(name)]) for name in CLIPS)]
    assert [one.text for one in said] == alone


def test_what_is_too_short_to_be_heard_leaves_loss_and_gradient_finite():
    task, model = example(Config(ctc_weight=0.0))
    loss = task.loss(model.train(), task.collate([clip("nothing"), clip("shorter than a frame"), *words(1)]))
    (loss.terms["ctc"].sum * 0 + loss.terms["attention"].sum).backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_a_recording_of_which_nothing_was_heard_is_counted():
    rows = [Scored(id=str(n), source="", seconds=1.0, audio="", start=None, reference=reference, hypothesis=hypothesis,
                   counts={}, scores={"cut": cut})
            for n, (reference, hypothesis, cut) in enumerate([("cat", "", 0.0), ("", "", 0.0), ("cat", "cat", 0.0),
                                                              ("a b", "a a a a", 1.0)])]
    settings = EvaluationConfig()
    judged = Evaluation(dataset="d", decoder="joint", normalizer=settings.normalizer, normalizer_version="1",
                        scored=tuple(rows), seconds=1.0, loss=0.0)
    assert judged.rates() == {"empty_rate": 0.25, "repetition_rate": 0.25, "cut_rate": 0.25}
    assert "cut_rate" not in replace(judged, scored=tuple(replace(row, scores={}) for row in rows)).rates()


SHORT = Config(beam_size=2, max_new_tokens=4, max_seconds=10.0)


@pytest.mark.parametrize(("model", "task"), [(tiny_conformer(), Ctc()), (tiny(), SHORT)], ids=["ctc", "hybrid"])
def test_an_hour_is_transcribed_in_pieces_that_the_model_takes_and_few_at_a_time(model, task, tmp_path):
    """Speech of 25 s every ten minutes; between it there is nothing to hear."""
    burst = np.concatenate([np.tile(np.concatenate([tone(2.0, RATE), np.zeros(RATE // 2)]), 10), np.zeros(575 * RATE)])
    with soundfile.SoundFile(tmp_path / "hour.wav", "w", RATE, 1) as file:
        for _ in range(6):
            file.write(burst)
    assembly = assemble(model, task, Characters("abc "))
    held, collate = [], assembly.task.collate
    assembly.task.collate = lambda utterances: held.append([one.seconds for one in utterances]) or collate(utterances)
    [found] = transcribe(assembly, [tmp_path / "hour.wav"], batch_size=4)
    assert found.seconds == 3600.0
    most = getattr(task, "max_seconds", 28.0)
    assert max(map(max, held)) <= most
    assert max(map(len, held)) <= 4
    assert len(found.segments) >= 6 * 25 // most
    assert sum(map(sum, held)) < 6 * 27, "the silence is not heard"
