"""Normalisers: forgive what they say they forgive, glue no words, and change nothing when applied twice."""

import csv
import pickle
import subprocess
import sys
from importlib.metadata import version

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from auricle.core.errors import ConfigError
from auricle.core.text import NORMALIZERS, basic, hebrew, normalizer, unknown_part
from tests.paths import DATA, HAVE_DATA

MAQAF, PASEQ, SOF_PASUQ = "\u05be", "\u05c0", "\u05c3"
INVISIBLE = "\u00ad\u200c\ufeff\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
HEBREW_WORDS = st.text("אבגדהוזחטיכלמנסעפצקרשתםןךףץ", min_size=1, max_size=6)
WHISPER_PAIRS = [("two double o eight", "2008"), ("10km", "10 km"), ("cancelation", "cancellation")]
VERSES = [(
    "Jonah 1.1",
    "וַֽיְהִי֙ דְּבַר־יְהוָ֔ה אֶל־יוֹנָ֥ה בֶן־אֲמִתַּ֖י לֵאמֹֽר׃",
    "וַיְהִי דְּבַר־יְהוָה אֶל־יוֹנָה בֶן־אֲמִתַּי לֵאמֹר",
    "ויהי דבר יהוה אל יונה בן אמתי לאמר",
)]


def rows(path):
    with path.open(encoding="utf-8", newline="") as lines:
        return list(csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))[1:]


def whisper_pairs():
    if not HAVE_DATA:
        return WHISPER_PAIRS
    return [(text, expected) for _, text, expected in rows(DATA / "wer_refs/whisper_normaliser/pairs.tsv")]


def verses():
    """(verse, with cantillation, with niqqud, plain). Where a paragraph letter follows the sof pasuq, the two derived
    columns have it glued to the last word: those verses prove nothing here."""
    files = sorted(DATA.glob("hebrew_text/wlc_*.tsv"))
    found = [row for file in files for row in rows(file) if row[1].endswith(SOF_PASUQ)]
    return found or VERSES


@pytest.mark.parametrize(("text", "expected"), [
    ("Hello, World!", "hello world"),
    ("don’t  rock 'n' roll ’tis dogs'", "don't rock n roll tis dogs"),
    ("well-known / and\tso_on…", "well known and so on"),
    ("3.5 % of $1,000", "3 5 of 1 000"),
    ("Ｆｕｌｌ ﬁnd №5", "full find no5"),
    ("cafe\u0301 Straße İ", "café straße i\u0307"),
    ("हिन्दी भाषा", "हिन्दी भाषा"),
    ("so\u00adft hy\u200dphen zero\u200bwidth", "soft hyphen zero width"),
    ("I ❤️ 1️⃣", "i 1"),
    ("?!", ""),
    ("", ""),
])
def test_basic_keeps_words_in_lower_case(text, expected):
    assert basic(text) == expected


@pytest.mark.parametrize("name", ["none", "basic", "hebrew", "corpus"])
@given(text=st.text() | st.text("aŉİ'’´\u0301\u05b8\u05beאשׁﬡ\u200d\u200b\u200f\ufe0f\"־ .½"))
@example(text="ŉ's")
@example(text="e\u200d\u0301")
@example(text="\u0301's")
def test_applied_twice_it_changes_nothing(name, text):
    once = normalizer(name)(text)
    assert normalizer(name)(once) == once


@given(text=st.text())
def test_none_leaves_the_text_as_it_stands(text):
    assert normalizer("none")(text) == text


@given(text=st.text("אבc\u05b8 'é\u0301", max_size=12), place=st.integers(0, 12), control=st.sampled_from(INVISIBLE))
def test_controls_that_cannot_be_seen_change_nothing(text, place, control):
    for rules in (basic, hebrew):
        assert rules(text[:place] + control + text[place:]) == rules(text)


def test_hebrew_with_cantillation_with_niqqud_and_plain_are_the_same_words():
    compared = verses()
    assert not HAVE_DATA or len(compared) > 1500
    for verse, full, niqqud, plain in compared:
        assert hebrew(full) == hebrew(niqqud) == hebrew(plain) == plain, verse


@given(first=HEBREW_WORDS, second=HEBREW_WORDS, apart=st.sampled_from([MAQAF, PASEQ, SOF_PASUQ, "\u200b", "-", "\n"]))
def test_hebrew_separators_never_glue_words(first, second, apart):
    assert hebrew(first + apart + second) == f"{first} {second}"


@pytest.mark.parametrize(("text", "expected"), [
    ("יוֹם אֶחָֽד׃ פ", "יום אחד פ"),
    ("צה״ל צה\"ל צה''ל צה\u200f”ל", "צהל צהל צהל צהל"),
    ("ג'ירפה ג׳ירפה רח'", "גירפה גירפה רח"),
    ("אמר: \"שלום\"", "אמר שלום"),
    ("\ufb2aלום ש\u05c1לום", "שלום שלום"),
    ("café ו-Don't", "café ו don't"),
])
def test_hebrew_signs_are_stripped(text, expected):
    assert hebrew(text) == expected


def test_whisper_english_gives_what_openai_published():
    for text, expected in whisper_pairs():
        assert normalizer("whisper_english")(text) == expected


def test_name_and_version_stand_beside_the_rules():
    assert [normalizer(name).name for name in NORMALIZERS] == list(NORMALIZERS)
    assert set(NORMALIZERS) == {"none", "basic", "whisper_english", "hebrew", "corpus"}
    assert normalizer("basic").version == "1"
    assert normalizer("whisper_english").version == f"whisper-normalizer {version('whisper-normalizer')}"


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(ConfigError, match="no normaliser 'basics'; did you mean 'basic'"):
        normalizer("basics")


@pytest.mark.parametrize(("name", "unknown"), [
    ("basic", None), ("corpus+whisper_english", None), ("corpus + basic", None),
    ("corpus+baisc+x", "baisc"), ("corpus+", ""), ("", ""),
])
def test_the_first_part_that_is_no_normaliser_is_named(name, unknown):
    assert unknown_part(name) == unknown
    if unknown is not None:
        with pytest.raises(ConfigError, match=f"no normaliser '{unknown}'; .*Known: basic, corpus, "):
            normalizer(name)


@given(text=st.text() | st.text("Aa<COMMA>׃אˊָ ,'."))
def test_joined_by_plus_the_rules_apply_from_left_to_right(text):
    assert normalizer("corpus+hebrew")(text) == normalizer("hebrew")(normalizer("corpus")(text))


def test_joined_rules_have_joined_names_and_versions_and_reach_worker_processes():
    joined = normalizer("corpus + basic")
    assert (joined.name, joined.version) == ("corpus+basic", "1+1")
    assert pickle.loads(pickle.dumps(joined))("HELLO <COMMA> UM") == "hello"


def test_a_marker_is_no_word_when_a_scoring_normaliser_follows():
    compared = normalizer("corpus+whisper_english")
    assert compared("UM <COMMA> TWO HUNDRED <PERIOD>") == compared("two hundred") == "200"


def test_importing_the_rules_needs_neither_torch_nor_whisper():
    check = "import sys, auricle.core.text; assert not {'torch', 'whisper_normalizer'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", check], check=True)
