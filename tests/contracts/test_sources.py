"""What every source of data promises, whoever wrote it. A source's own test file gives a `sample` of its config."""

import importlib
import subprocess
import sys

import pytest

from auricle.core.decode import decode_block
from auricle.core.folder import find, names
from auricle.core.frame import Block
from auricle.data.features import Features
from auricle.data.loader import read_signal
from auricle.data.prepare import prepare
from auricle.data.sources import Candidate

NAMES = names("data.sources")


def sample(name, folder):
    tests = importlib.import_module(f"tests.data.sources.test_{name}")
    if not getattr(tests, "HAVE_ESPEAK", True):
        pytest.skip("the extra [synth] is not installed")
    return tests.sample(folder)


def test_the_room_has_the_formats_that_people_bring():
    assert {"synth", "fsdd", "librispeech", "jsonl", "csv", "folder"} <= set(NAMES)


def test_configs_come_without_torch_and_without_the_synthesiser():
    code = f"import sys; from auricle.core.folder import find\nfor n in {NAMES}: find('data.sources', n).Config\n"
    check = "assert not {'torch', 'espeakng_loader', 'transformers'} & set(sys.modules), sorted(sys.modules)"
    subprocess.run([sys.executable, "-c", code + check], check=True)


@pytest.mark.parametrize("name", NAMES)
def test_the_config_is_a_block_of_its_name(name):
    config = find("data.sources", name).Config
    assert issubclass(config, Block)
    assert config.model_fields["kind"].default == name


@pytest.mark.parametrize("name", NAMES)
def test_the_config_comes_back_from_plain_values(name, tmp_path):
    config = sample(name, tmp_path)
    assert decode_block("data.sources", config.model_dump(mode="json"), "here") == config


@pytest.mark.parametrize("name", NAMES)
def test_candidates_are_listed_the_same_twice_and_without_audio(name, tmp_path):
    source, config = find("data.sources", name), sample(name, tmp_path)
    first = list(source.candidates(config))
    assert first
    assert first == list(source.candidates(config))
    assert all(isinstance(candidate, Candidate) for candidate in first)
    assert len({candidate.id for candidate in first}) == len(first)
    assert {candidate.audio is None for candidate in first} == {hasattr(source, "render") or name == "text"}


@pytest.mark.parametrize("name", NAMES)
def test_a_prepared_sample_has_every_candidate_with_its_audio(name, tmp_path):
    source, config = find("data.sources", name), sample(name, tmp_path / "corpus")
    manifest = prepare(config, tmp_path / "manifest", workers=1)
    listed = list(source.candidates(config))
    assert manifest.ids == [candidate.id for candidate in listed]
    assert manifest.texts == [candidate.text for candidate in listed]
    assert set(manifest.column("source")) == {name}
    row = manifest.row(len(manifest) - 1)
    assert (row.audio is None) == (name == "text")
    if row.audio is None:
        return
    rate = row.audio.layout.frame_rate if isinstance(row.audio, Features) else 16000
    assert len(read_signal(row, rate)) == pytest.approx(row.seconds * rate, abs=1)
