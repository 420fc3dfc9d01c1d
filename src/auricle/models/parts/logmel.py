"""Log-mel spectra, in the two styles that pretrained recognisers were fed with.

    whisper   Whisper's features (Radford et al. 2022, §2.2): centred frames, log10, eight decades below the clip's peak
    kaldi     Kaldi's fbank (`compute-fbank-feats`, dither 0, snip_edges): frames inside the signal, natural log

# T samples · F frames · W window samples · N points of the FFT · M mel bins
"""

from typing import Literal, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from transformers.audio_utils import mel_filter_bank

Style = Literal["whisper", "kaldi"]
Normalize = Literal["none", "mean", "mean_variance"]
Length = TypeVar("Length", int, Tensor)

WINDOW_SECONDS, HOP_SECONDS = 0.025, 0.010
WHISPER_FLOOR = 1e-10
KALDI_FLOOR = torch.finfo(torch.float32).eps
KALDI_LOW_HERTZ = 20.0
KALDI_PREEMPHASIS = 0.97
KALDI_SCALE = 32768.0
"""Kaldi reads 16-bit integers as they are; our samples lie in [-1, 1]."""


class LogMel(nn.Module):
    """(T,) float samples in [-1, 1] → (F, M) float32, one utterance at a time; runs in loader workers, on the CPU.

    It has no parameters and no state: the window and the filters are plain tensors, which stay on the CPU when the
    model that owns the front end moves, so that a forked worker never touches a device.
    """

    def __init__(self, sample_rate: int = 16_000, n_mels: int = 80, style: Style = "whisper",
                 normalize: Normalize = "none") -> None:
        super().__init__()
        self.sample_rate, self.n_mels, self.style, self.normalize = sample_rate, n_mels, style, normalize
        self.window_samples = int(WINDOW_SECONDS * sample_rate)
        self.hop_samples = int(HOP_SECONDS * sample_rate)
        self.fft_points = self.window_samples if style == "whisper" else 1 << (self.window_samples - 1).bit_length()
        self._window = torch.hann_window(self.window_samples, periodic=style == "whisper")
        if style == "kaldi":
            self._window = self._window ** 0.85 * KALDI_SCALE  # "povey", which unlike Hamming ends in 0
        self._filters = torch.from_numpy(self._mel_filters()).float()  # (N/2+1, M)

    @property
    def hop_seconds(self) -> float:
        return self.hop_samples / self.sample_rate

    def _mel_filters(self) -> np.ndarray:
        shape = {"num_frequency_bins": self.fft_points // 2 + 1, "num_mel_filters": self.n_mels,
                 "sampling_rate": self.sample_rate, "max_frequency": self.sample_rate / 2}
        if self.style == "whisper":
            return mel_filter_bank(**shape, min_frequency=0.0, norm="slaney", mel_scale="slaney")
        return mel_filter_bank(
            **shape, min_frequency=KALDI_LOW_HERTZ, mel_scale="kaldi", triangularize_in_mel_space=True)

    def lengths(self, samples: Length) -> Length:
        """Samples → frames that `forward` returns for them, for an int or an integer tensor of any shape."""
        if self.style == "whisper":
            return samples // self.hop_samples
        frames = (samples - self.window_samples) // self.hop_samples + 1
        return frames.clamp(min=0) if isinstance(frames, Tensor) else max(frames, 0)

    def forward(self, samples: np.ndarray | Tensor) -> Tensor:
        if isinstance(samples, np.ndarray):
            samples = torch.from_numpy(np.require(samples, np.float32, "CW"))
        if self.lengths(len(samples)) == 0:
            return torch.zeros(0, self.n_mels)
        features = self._whisper(samples) if self.style == "whisper" else self._kaldi(samples)
        return normalized(features, self.normalize)

    def _whisper(self, samples: Tensor) -> Tensor:
        frames = reflect(samples, self.fft_points // 2).unfold(0, self.window_samples, self.hop_samples)
        frames = frames[: self.lengths(len(samples))]  # (F, W); Whisper drops the last; an odd window has no such one
        mel = self._mel(frames).clamp_(min=WHISPER_FLOOR).log10_()  # (F, M)
        return mel.clamp_(min=mel.max() - 8.0).add_(4.0).div_(4.0)

    def _kaldi(self, samples: Tensor) -> Tensor:
        frames = samples.unfold(0, self.window_samples, self.hop_samples)  # (F, W)
        frames = frames - frames.mean(1, keepdim=True)
        before = torch.cat([frames[:, :1], frames[:, :-1]], 1)
        return self._mel(frames.sub_(before, alpha=KALDI_PREEMPHASIS)).clamp_(min=KALDI_FLOOR).log_()  # (F, M)

    def _mel(self, frames: Tensor) -> Tensor:
        spectrum = torch.fft.rfft(frames * self._window, n=self.fft_points)  # (F, N/2+1)
        return spectrum.real.square().addcmul_(spectrum.imag, spectrum.imag) @ self._filters  # (F, M)


def normalized(features: Tensor, how: Normalize) -> Tensor:
    """(F, M) → (F, M), each column over the utterance."""
    if how != "none":
        features = features - features.mean(0)
    if how == "mean_variance":
        features = features / features.std(0, correction=0).clamp(min=1e-5)
    return features


def reflect(samples: Tensor, margin: int) -> Tensor:
    """(T,) → (T + 2 margin,), mirrored at both ends, as often as a short clip needs (`numpy.pad`, mode "reflect")."""
    last = len(samples) - 1
    outside = torch.cat([torch.arange(-margin, 0), torch.arange(last + 1, last + 1 + margin)])
    outside = outside.remainder(max(2 * last, 1))  # there and back again
    before, after = samples[torch.minimum(outside, 2 * last - outside)].split(margin)
    return torch.cat([before, samples, after])
