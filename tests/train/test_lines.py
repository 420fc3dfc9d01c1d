from auricle.core.events import Event
from auricle.train.lines import line

RATES = {"wer": 0.125, "cer": 0.05, "wer_low": 0.1, "wer_high": 0.15, "empty_rate": 0.0, "repetition_rate": 0.025}
EVAL = {**RATES, "dataset": "dev", "complete": True, "utterances": 40, "substitutions": 3, "deletions": 1,
        "insertions": 1, "words": 40, "loss": 0.5, "decoder": "joint", "normalizer": "basic", "normalizer_version": "1",
        "seconds": 12.0, "share_of_wall_percent": 4.0, "best": True}
TRAIN = {"stage_step": 25, "total_steps": 100, "loss": 8.34, "grad_norm": 45.2, "learning_rate": 1e-4, "seconds": 120.0,
         "eta_seconds": 72_000.0, "epoch": 0.5, "padding_percent": 1.0, "audio_hours_per_hour": 50.0,
         "data_wait_percent": 0.1, "terms": {"ctc": 8.34}}


def test_the_line_of_a_step_is_the_known_one_and_several_terms_stand_at_its_end():
    known = "Step 25/100 | Loss: 8.34 | Grad Norm: 45.2 | LR: 1e-4 | Time: 2min | ETA: 20.0hr | Epoch: 0.50 | "
    assert line(Event(kind="train", values=TRAIN)).startswith(known)
    assert line(Event(kind="train", values=TRAIN)).endswith("Data wait: 0.1%")
    both = {**TRAIN, "terms": {"ctc": 10.0, "attention": 7.125}}
    assert line(Event(kind="train", values=both)).endswith("Data wait: 0.1% | Terms: ctc 10, attention 7.125")


def test_an_evaluation_tells_what_its_error_rate_hides():
    assert line(Event(kind="eval", step=200, values={**EVAL, "cut_rate": 0.05})) == (
        "Eval at step 200 on dev | WER: 12.50% [10.00%, 15.00%] | CER: 5.00% | Empty: 0.0% | Stuck: 2.5% | Cut: 5.0% | "
        "S/D/I: 3/1/1 of 40 words | Loss: 0.5 | joint, basic 1 | 12s, 4.0% of wall time | best so far")


def test_other_decoders_are_rows_of_a_table_below_it():
    others = ({**EVAL, "decoder": name, "beside": "joint"} for name in ("ctc", "ctc_beam"))
    rows = [line(Event(kind="eval", values=values)) for values in others]
    assert rows[0] == ("  beside it ctc             | WER: 12.50% [10.00%, 15.00%] | CER: 5.00% | Empty: 0.0% | "
                       "Stuck: 2.5% | 12s")
    assert rows[0].index("|") == rows[1].index("|")


def test_the_end_tells_the_share_of_evaluating():
    values = {"reason": "finished", "message": "", "seconds": 600.0, "evaluating_percent": 7.25}
    assert line(Event(kind="end", step=9, values=values)) == (
        "Training finished at step 9 after 10min, 7.2% of it evaluating")


def test_a_floor_of_the_loss_is_a_sentence():
    text = line(Event(kind="derived", stage="main", values={"total_steps": 1000, "loss_floors": {"loss": 1.0847}}))
    assert text.splitlines()[0] == "Derived for stage main:"
    assert "  total_steps: 1,000" in text
    assert "loss cannot fall below 1.085 nats a symbol" in text
