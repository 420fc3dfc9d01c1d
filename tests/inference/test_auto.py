import torch
from transformers import AutoConfig, AutoModel, AutoModelForSpeechSeq2Seq, AutoTokenizer

import auricle.inference.auto as auto
from auricle.tasks.chat.config import Config
from auricle.tasks.parts.assembly import assemble
from tests.models.speech_llm.test_model import tiny
from tests.tasks.chat.test_task import example
from tests.utterances import words


def saved(folder):
    task, _ = example()
    torch.manual_seed(2)
    made = assemble(tiny(), Config(normalizer="basic", max_new_tokens=8), task.tokenizer)
    made.save(folder)
    made.model.eval()
    return made


def test_a_folder_loads_through_the_auto_classes_and_says_the_same(tmp_path):
    made = saved(tmp_path)
    one = words(1)[0]
    expected = made.task.predict(made.model, made.task.collate([one]))[0].text
    assert expected
    for cls in (AutoModel, AutoModelForSpeechSeq2Seq):
        model = cls.from_pretrained(tmp_path)
        assert isinstance(model, auto.AuricleModel)
        assert model.transcribe(one.audio, one.sample_rate) == expected
    assert AutoConfig.from_pretrained(tmp_path).model["kind"] == "speech_llm"
    assert AutoTokenizer.from_pretrained(tmp_path).chat_template


def test_what_it_saves_loads_again_to_the_same_weights(tmp_path):
    (tmp_path / "first").mkdir()
    saved(tmp_path / "first")
    model = AutoModel.from_pretrained(tmp_path / "first")
    model.save_pretrained(tmp_path / "second")
    again = AutoModel.from_pretrained(tmp_path / "second")
    torch.testing.assert_close(again.state_dict(), model.state_dict(), atol=0, rtol=0)
