import subprocess
import sys

import pytest

from auricle.core.decode import decode_model
from auricle.core.errors import ConfigError
from auricle.models.parts.encoders.parts.build import build
from auricle.models.parts.encoders.parts.config import EncoderConfig


@pytest.mark.parametrize(("keys", "said"), [
    ({"kind": "wisper"}, r"kind is \"wisper\"; expected an encoder; did you mean 'whisper'\? Known: conformer, hubert"),
    ({"kind": "parts"}, "expected an encoder"),
    ({"kind": "hubert", "pretrained": "a/b", "config": {"hidden_size": 8}},
     r"'config' \(hidden_size\) is for fresh weights, and 'pretrained' is a/b.*remove one"),
    ({"kind": "hubert", "revision": "v1"}, "'revision' is v1, of no checkpoint"),
    ({"kind": "hubert", "pretrained": ""}, "pretrained"),
    ({"kind": "whisper", "window": "half"}, "expected 'full' or 'trimmed'"),
    ({"kind": "whisper", "dtype": "int8"}, "expected 'float32'"),
    ({"kind": "whisper", "windows": "full"}, "did you mean 'window'")])
def test_what_cannot_be_meant_is_refused_in_a_sentence(keys, said):
    with pytest.raises(ConfigError, match=said):
        decode_model(EncoderConfig, keys, "config", ("encoder",))


def test_a_dotted_kind_is_a_module_of_the_user():
    with pytest.raises(ConfigError, match=r"cannot import 'my_lab\.encoders\.gru'"):
        build(EncoderConfig(kind="my_lab.encoders.gru"))


def test_it_is_read_without_torch():
    code = "import sys; sys.modules['torch'] = None; import auricle.models.parts.encoders.parts.config as c; " \
           "c.EncoderConfig(kind='whisper')"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
