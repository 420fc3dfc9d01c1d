"""Totals that others published, and the transcripts they published them for."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

from tests.paths import DATA, HAVE_DATA

REFERENCES = DATA / "wer_refs"
JIWER_IN_SHORT = [
    {"file": "test_measures.py", "test": "test_known_values", "ref": "X Y X", "hyp": "X Z", "expected": {"wer": 2 / 3}},
    {"file": "test_measures.py", "test": "test_known_values", "ref": "X", "hyp": "X X Y Y", "expected": {"wer": 3}},
    {"file": "test_cer.py", "test": "test_known_values", "ref": "X", "hyp": "Y Z", "expected": 3},
]
ONE_SENTENCE = {"test_different_sentence_length_equal_type", "test_permutations_variance"}
"""jiwer's cases that join the utterances before they are scored."""


def jiwer_cases(file: str) -> Iterator[tuple[list[str], list[str], float]]:
    """(references, hypotheses, rate) of the cases in one of jiwer's test files."""
    cases = json.loads((REFERENCES / "jiwer/cases.json").read_text()) if HAVE_DATA else JIWER_IN_SHORT
    for case in cases:
        if case["file"].endswith(file):
            sides = [[side] if isinstance(side, str) else side for side in (case["ref"], case["hyp"])]
            references, hypotheses = [[" ".join(side)] for side in sides] if case["test"] in ONE_SENTENCE else sides
            expected = case["expected"]
            yield references, hypotheses, expected["wer"] if isinstance(expected, dict) else expected


def columns(path: Path) -> dict[str, str]:
    """The first two columns of a headless TSV: utterance id → text."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return {id: text for id, text, *_ in (f"{line}\t".split("\t") for line in lines)}


def librispeech() -> Iterator[tuple[str, list[tuple[str, str]], int, int]]:
    """(system, transcript pairs, published errors, published reference words) of Le et al. 2021 on test-clean."""
    folder = REFERENCES / "fbai_librispeech"
    references = columns(folder / "test-clean.ref.tsv") if HAVE_DATA else {}
    for path in sorted(folder.glob("hyp/test-clean.*")):
        hypotheses = columns(path)
        result = (folder / "results" / f"{path.name}.result").read_text().splitlines()[0]
        counts = {name: int(value) for name, value in re.findall(r"(\w+)=(\d+)(?=,|$)", result)}
        pairs = [(text, hypotheses[id]) for id, text in references.items()]
        yield path.name, pairs, counts["subs"] + counts["ins"] + counts["dels"], counts["ref_words"]


def sclite(reference: str, hypothesis: str, alignment: str) -> Iterator[tuple[str, str, int, int]]:
    """(reference, hypothesis, errors, words) of each utterance without `{ a / b }` alternatives."""
    references, hypotheses = (_transcripts(REFERENCES / "sctk" / name) for name in (reference, hypothesis))
    text = (REFERENCES / "sctk/base" / alignment).read_text(encoding="utf-8")
    scores = r"id: \((\S+)\)\nScores: \(#C #S #D #I\) (\d+) (\d+) (\d+) (\d+)"
    for id, *counts in re.findall(scores, text):
        correct, substituted, deleted, inserted = map(int, counts)
        if "{" not in references[id.lower()]:
            yield (references[id.lower()], hypotheses[id.lower()], substituted + deleted + inserted,
                   correct + substituted + deleted)


def _transcripts(path: Path) -> dict[str, str]:
    """NIST trn: a lower-cased text followed by its id in parentheses."""
    found = re.findall(r"^(.*)\(([^()]*)\)\s*$", path.read_text(encoding="utf-8").lower(), re.MULTILINE)
    return {id: text for text, id in found}


def fstalign() -> Iterator[tuple[str, str, int, int]]:
    """(reference, hypothesis, errors, words) of the cases that are two plain text files and no synonym rules."""
    folder = REFERENCES / "fstalign"
    for case in json.loads((folder / "expected.json").read_text()):
        names = case["args"][1:]
        if len(names) == 2 and all(name.endswith(".txt") for name in names):
            errors, words = re.findall(r"\d+", case["expected"][0])[:2]
            reference, hypothesis = ((folder / name).read_text(encoding="utf-8").lower() for name in names)
            yield reference, hypothesis, int(errors), int(words)
