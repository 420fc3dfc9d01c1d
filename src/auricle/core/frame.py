"""The base of every configuration value: frozen, strict, no unknown key."""

from pydantic import BaseModel, ConfigDict


class Frame(BaseModel):
    """A frozen pydantic model that refuses unknown keys and wrong types (1 is a float, "1" is not an int)."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False,
                              use_attribute_docstrings=True)


class Block(Frame):
    """A part of an experiment that is decoded by its own room: `kind` names the file or folder in that room."""

    kind: str
