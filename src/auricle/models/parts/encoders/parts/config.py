"""Which speech encoder, and where its weights come from."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from auricle.core.errors import nearest
from auricle.core.folder import names
from auricle.core.frame import Frame

ROOM = "models.parts.encoders"


class EncoderConfig(Frame):
    """A pretrained encoder, or one of the same architecture with fresh weights."""

    kind: str
    """A file of models/parts/encoders, or a dotted module of your own."""
    pretrained: Annotated[str, Field(min_length=1)] | None = None
    """A checkpoint that transformers wrote: its name on the hub or its folder. None gives fresh weights."""
    revision: str | None = None
    """Branch, tag or commit of that name on the hub."""
    config: dict[str, Any] = {}
    """Without `pretrained`: keys of the configuration that transformers has for this architecture, and of
    models/conformer/config.py for the Conformer."""
    window: Literal["full", "trimmed"] = "trimmed"
    """Whisper's input: padded to 30 s, as it was trained, or as long as the utterance."""
    normalize: bool | None = None
    """Of encoders that take the waveform: mean 0 and variance 1 over the clip. None asks the checkpoint's
    preprocessor_config.json, and is false where there is none."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the weights. Low precision is for frozen encoders: what is trained has its masters in float32."""

    @field_validator("kind")
    @classmethod
    def _kind_exists(cls, kind: str) -> str:
        if "." not in kind and kind not in names(ROOM):
            raise ValueError(f"expected an encoder; {nearest(kind, names(ROOM))}")
        return kind

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if self.pretrained and self.config:
            raise ValueError(f"'config' ({', '.join(self.config)}) is for fresh weights, and 'pretrained' is "
                             f"{self.pretrained}, which has a configuration; remove one of the two")
        if self.revision and not self.pretrained:
            raise ValueError(f"'revision' is {self.revision}, of no checkpoint; name one in 'pretrained'")
        return self
