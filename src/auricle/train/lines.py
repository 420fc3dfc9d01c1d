"""Events as lines for eyes: the same text on the console and in trainer_log.txt."""

from collections.abc import Mapping
from typing import Any

from auricle.core.events import Event


def line(event: Event) -> str | None:
    """The event as one line, or None for kinds that are for programs only."""
    writer = _LINES.get(event.kind)
    return writer(event) if writer else None


def duration(seconds: float) -> str:
    """`45s`, `2min`, `1.5hr`."""
    if seconds < 60:
        return f"{seconds:.0f}s"
    return f"{seconds / 60:.0f}min" if seconds < 3600 else f"{seconds / 3600:.1f}hr"


def rate(value: float) -> str:
    """`1e-4`, `3.2e-5`."""
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}"


def _train(event: Event) -> str:
    v = event.values
    cost = f" | Cost: ${v['cost']:.2f}" if "cost" in v else ""
    total = f"/{v['total_steps']}" if v.get("total_steps") else ""
    terms = [f"{name} {value:.4g}" for name, value in v.get("terms", {}).items()]
    told = f" | Terms: {', '.join(terms)}" if len(terms) > 1 else ""
    return (
        f"Step {v['stage_step']}{total} | Loss: {v['loss']:.4g} | Grad Norm: {v['grad_norm']:.3g} | "
        f"LR: {rate(v['learning_rate'])} | Time: {duration(v['seconds'])} | ETA: {duration(v['eta_seconds'])} | "
        f"Epoch: {v['epoch']:.2f} | Padding: {v['padding_percent']:.1f}% | "
        f"Audio: {v['audio_hours_per_hour']:.0f} h/h | Data wait: {v['data_wait_percent']:.1f}%{cost}{told}"
    )


def _eval(event: Event) -> str:
    v = event.values
    if v.get("beside"):
        return f"  beside it {v['decoder']:<15} | {_rates(v)} | {duration(v['seconds'])}"
    scope = "" if v["complete"] else f" (subset of {v['utterances']})"
    best = " | best so far" if v.get("best") else ""
    return (
        f"Eval at step {event.step} on {v['dataset']}{scope} | {_rates(v)} | "
        f"S/D/I: {v['substitutions']}/{v['deletions']}/{v['insertions']} of {v['words']} words | "
        f"Loss: {v['loss']:.4g} | {v['decoder']}, {v['normalizer']} {v['normalizer_version']} | "
        f"{duration(v['seconds'])}, {v['share_of_wall_percent']:.1f}% of wall time{best}"
    )


def _rates(v: Mapping[str, Any]) -> str:
    interval = f" [{v['wer_low']:.2%}, {v['wer_high']:.2%}]" if v["wer_low"] is not None else ""
    told = (("Empty", "empty_rate"), ("Stuck", "repetition_rate"), ("Cut", "cut_rate"))
    others = [f" | {title}: {v[name]:.1%}" for title, name in told if name in v]
    return f"WER: {v['wer']:.2%}{interval} | CER: {v['cer']:.2%}{''.join(others)}"


def _stage(event: Event) -> str:
    counted = ", ".join(f"{name} {count:,}" for name, count in event.values["components"].items())
    share = f"{event.values['trainable']:,} of {event.values['parameters']:,} parameters train"
    first = f"Stage {event.stage}: {share} ({counted}); ends after {event.values['ends']}"
    return "\n".join([first, *event.values.get("summary", ())])


def _derived(event: Event) -> str:
    rows = [
        f"  {name}: {value:,}" if type(value) is int else f"  {name}: {value}"
        for name, value in event.values.items()
        if name != "loss_floors"
    ]
    floors = [
        f"  {name} cannot fall below {value:.3f} nats a symbol, that is what label smoothing makes of the best model"
        for name, value in event.values.get("loss_floors", {}).items()
    ]
    return "\n".join([f"Derived for stage {event.stage}:", *rows, *floors])


def _save(event: Event) -> str:
    return f"Saved {event.values['checkpoint']} ({event.values['bytes'] / 1e6:.1f} MB, {event.values['seconds']:.1f} s)"


def _end(event: Event) -> str:
    reason = event.values["reason"]
    message = event.values.get("message")
    after = duration(event.values["seconds"])
    share = event.values.get("evaluating_percent")
    evaluating = f", {share:.1f}% of it evaluating" if share else ""
    return f"Training {reason} at step {event.step} after {after}{evaluating}{': ' + message if message else ''}"


def _resume(event: Event) -> str:
    place = f"epoch {event.values['epoch'] + 1}, step {event.values['epoch_step']} of it"
    return f"Resuming from step {event.step} (stage {event.stage}, {place})"


def _switch(event: Event) -> str:
    v = event.values
    return (
        f"Loss on the same batch before and after the switch to {event.stage}: {v['loss_before']:.6g}, "
        f"{v['loss_after']:.6g}; moments of {v['moments_carried']} tensors carried, {v['moments_fresh']} start afresh"
    )


def _weights(event: Event) -> str:
    v = event.values
    return f"Weights from {v['path']}: {v['loaded']} tensors; missing {v['missing']}, unexpected {v['unexpected']}"


def _rejected(event: Event) -> str:
    v = event.values
    return f"Rows not used in {v['dataset']}: {v['count_by_reason']} of {v['rows']}"


def _bad_step(event: Event) -> str:
    v = event.values
    ids = ", ".join(v["ids"][:5]) + (f" and {len(v['ids']) - 5} more" if len(v["ids"]) > 5 else "")
    return f"Step {event.step} was not finite (gradient norm {v['grad_norm']}), the weights were left alone: {ids}"


def _rollback(event: Event) -> str:
    v = event.values
    return (
        f"Going back from step {event.step} to {v['checkpoint']}, leaving out {len(v['skipped'])} steps of the plan "
        f"(return {v['rollbacks']} of this stage)"
    )


def _split(event: Event) -> str:
    return f"Out of memory: micro-batches are passed through in {event.values['pieces']} pieces from here on"


def _replan(event: Event) -> str:
    v = event.values
    return f"Planning the rest of the epoch anew, {v['seen']} utterances of it are done: {'; '.join(v['changes'])}"


def _onset(event: Event) -> str:
    v = event.values
    return (
        f"Alignment onset (it clicks): the loss of the answer fell from {v['loss_before']:.3g} to "
        f"{v['loss_after']:.3g} between steps {v['began']} and {event.step}"
    )


def _mirror(event: Event) -> str:
    v = event.values
    safe = "nothing is safe there yet" if v["safe_step"] is None else f"step {v['safe_step']} is safe there"
    return f"Mirror {v['target']}: {safe}{'; ' + str(v['error']) if v['error'] else ''}"


_LINES = {
    "bad_step": _bad_step,
    "rollback": _rollback,
    "split": _split,
    "replan": _replan,
    "mirror": _mirror,
    "onset": _onset,
    "train": _train,
    "eval": _eval,
    "stage": _stage,
    "derived": _derived,
    "save": _save,
    "end": _end,
    "resume": _resume,
    "switch": _switch,
    "weights": _weights,
    "rejected": _rejected,
    "run": lambda e: f"Run {e.run} on {e.values['device']} | torch {e.values['versions']['torch']}",
    "alarm": lambda e: f"Alarm: {e.values['message']}",
}
