"""The JSON schema of an experiment file, for editors that complete and check YAML.

Nothing is required in it: a file says what differs, and the groups fill in the rest. Each part of the frame has its
own entry in `$defs`, for the files of its group (`schema.json#/$defs/TrainingConfig` for `training/*.yaml`).
"""

from typing import Any

from auricle.core.config import AUGMENT, TASK, ExperimentConfig
from auricle.core.decode import BLOCKS
from auricle.core.folder import find, names
from auricle.core.frame import Block

DIALECT = "https://json-schema.org/draft/2020-12/schema"
REFERENCE = "#/$defs/{model}"


def json_schema() -> dict[str, Any]:
    """Blocks are `anyOf` over every entry of their room, told apart by `kind`."""
    schema = ExperimentConfig.model_json_schema(ref_template=REFERENCE)
    definitions = schema["$defs"]
    del definitions[Block.__name__]
    for key, room in BLOCKS.items():
        schema["properties"][key] = _any_of(room, definitions)
    definitions["DatasetConfig"]["properties"]["source"] = _any_of("data.sources", definitions)
    training = definitions["TrainingConfig"]
    own = {**training["properties"], TASK: schema["properties"][TASK],
           AUGMENT: definitions["DataConfig"]["properties"]["augment"]}
    schema["properties"]["stages"]["additionalProperties"] = {**training, "properties": own}
    schema["properties"]["defaults"] = {"type": "array", "description": "Options of groups: `- /model: large`."}
    _drop_required(schema)
    return {"$schema": DIALECT, **schema, "title": "Auricle experiment"}


def _any_of(room: str, definitions: dict[str, Any]) -> dict[str, Any]:
    """References to one definition an entry, named `models.conformer`; they are put among the definitions."""
    for name in names(room):
        config = find(room, name, part="config").Config
        own = config.model_json_schema(ref_template=REFERENCE.format(model=f"{room}.{name}.{{model}}"))
        inner = own.pop("$defs", {})
        own["properties"]["kind"] = {"const": name}
        definitions |= {f"{room}.{name}.{model}": value for model, value in inner.items()} | {f"{room}.{name}": own}
    return {"anyOf": [{"$ref": REFERENCE.format(model=f"{room}.{name}")} for name in names(room)]}


def _drop_required(node: Any) -> None:
    if isinstance(node, dict):
        node.pop("required", None) if isinstance(node.get("required"), list) else None
        for value in node.values():
            _drop_required(value)
    elif isinstance(node, list):
        for value in node:
            _drop_required(value)
