"""A Conformer encoder with a CTC head.

# B batch · T samples · F feature frames · E encoder frames · M mel bins · D width · V vocabulary
"""

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn import functional

from auricle.models.conformer.config import Config
from auricle.models.parts.conformer import ConformerEncoder
from auricle.models.parts.logmel import LogMel
from auricle.models.parts.subsampling import ConvSubsampling


class Conformer(nn.Module):
    """(B, F, M) features, (B,) lengths → (B, E, V+1) logits, (B,) lengths. Class V is the blank, a class of its own.

    B and F may be 0. Without utterances the result is empty, but its graph still reaches every parameter; without
    frames it is one frame long, and the lengths say that the frame does not count.
    """

    def __init__(self, frontend: LogMel, encoder: ConformerEncoder, ctc_head: nn.Linear) -> None:
        super().__init__()
        self.frontend, self.encoder, self.ctc_head = frontend, encoder, ctc_head

    def components(self) -> Mapping[str, nn.Module]:
        return {"encoder": self.encoder, "ctc_head": self.ctc_head}

    def output_lengths(self, samples: Tensor) -> Tensor:
        return self.encoder.subsampling.lengths(self.frontend.lengths(samples))

    def label_tensors(self) -> tuple[str, ...]:
        """Names of the parameters that have a row a label, and the last for the blank."""
        return ("ctc_head.weight", "ctc_head.bias")

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        utterances, frames, _ = features.shape
        if utterances == 0 or frames == 0:  # kernels need not take empty tensors, so a silent utterance stands in
            stand_ins = int(utterances == 0)
            features = functional.pad(features, (0, 0, 0, int(frames == 0), 0, stand_ins))
            lengths = functional.pad(lengths, (0, stand_ins))
        encoded, lengths = self.encoder(features, lengths)  # (B, E, D)
        logits = self.ctc_head(encoded)  # (B, E, V+1)
        return (logits, lengths) if utterances else (logits[:0], lengths[:0])


def build(config: Config, vocabulary: int) -> Conformer:
    """With fresh weights; `vocabulary` counts the labels, without the blank."""
    frontend = LogMel(**config.frontend.model_dump())
    subsampling = ConvSubsampling(frontend.n_mels, config.width, config.subsampling, config.subsampling_channels)
    encoder = ConformerEncoder(
        subsampling, width=config.width, layers=config.layers, heads=config.heads, dropout=config.dropout,
        feedforward_factor=config.feedforward_factor, kernel=config.convolution_kernel)
    return Conformer(frontend, encoder, nn.Linear(config.width, vocabulary + 1))
