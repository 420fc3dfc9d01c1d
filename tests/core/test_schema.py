"""The JSON schema for editors."""

from auricle.core.config import ExperimentConfig, TrainingConfig
from auricle.core.folder import names
from auricle.core.schema import json_schema


def test_every_key_of_the_frame_is_known_and_none_is_required():
    schema = json_schema()
    assert schema["properties"].keys() == {*ExperimentConfig.model_fields, "defaults"}
    assert schema["additionalProperties"] is False
    assert schema["$defs"]["TrainingConfig"]["properties"].keys() == set(TrainingConfig.model_fields)
    assert "'required'" not in str(schema)


def test_fields_carry_their_description():
    properties = json_schema()["$defs"]["TrainingConfig"]["properties"]
    assert properties["weight_decay"]["description"] == "Not applied to norms, biases and scalars."


def test_a_block_is_any_of_the_entries_of_its_room():
    schema = json_schema()
    for node, room in ((schema["properties"]["model"], "models"), (schema["properties"]["task"], "tasks"),
                       (schema["$defs"]["DatasetConfig"]["properties"]["source"], "data.sources")):
        definitions = [schema["$defs"][one["$ref"].removeprefix("#/$defs/")] for one in node["anyOf"]]
        assert [one["properties"]["kind"]["const"] for one in definitions] == names(room)


def test_a_stage_may_change_any_key_of_training_and_have_a_task_and_an_augment_of_its_own():
    schema = json_schema()
    own = schema["properties"]["stages"]["additionalProperties"]
    assert own["properties"].keys() == schema["$defs"]["TrainingConfig"]["properties"].keys() | {"task", "augment"}
    assert own["properties"]["task"] == schema["properties"]["task"]
    assert own["additionalProperties"] is False


def test_every_reference_leads_somewhere():
    schema = json_schema()

    def references(node):
        if isinstance(node, dict):
            yield from ([node["$ref"]] if isinstance(node.get("$ref"), str) else [])
            for value in node.values():
                yield from references(value)
        elif isinstance(node, list):
            for value in node:
                yield from references(value)

    assert {name.removeprefix("#/$defs/") for name in references(schema)} <= schema["$defs"].keys()
