import re
import subprocess
import sys

import pytest
from pydantic import ValidationError

from auricle.core.decode import decode_model
from auricle.core.errors import ConfigError
from auricle.core.folder import names
from auricle.core.frame import Frame
from auricle.models.speech_llm.projector_configs import ProjectorConfig, QformerConfig, SharedMoeConfig, SwigluConfig


class Holder(Frame):
    projector: ProjectorConfig = SwigluConfig()


def test_an_unknown_projector_is_answered_with_the_known_ones():
    with pytest.raises(ConfigError) as caught:
        decode_model(Holder, {"projector": {"kind": "swiglo"}}, "here", ("model",))
    said = str(caught.value)
    assert said.startswith("here: model.projector")
    assert "swiglo" in said
    assert set(names("models.speech_llm.projectors")) <= set(re.findall(r"\w+", said))


def test_a_key_of_another_projector_is_unknown():
    with pytest.raises(ConfigError, match=r"no key 'projector\.queries'"):
        decode_model(Holder, {"projector": {"kind": "swiglu", "queries": 3}})


@pytest.mark.parametrize(("config", "keys", "said"), [
    (SharedMoeConfig, {"experts": 4, "experts_per_token": 5}, "experts_per_token 5 is more than experts"),
    (SharedMoeConfig, {"experts_per_token": 1}, "experts_per_token"),
    (SharedMoeConfig, {"balance_weight": -0.1}, "balance_weight"),
    (QformerConfig, {"hidden": 30, "heads": 4}, "hidden 30 is no multiple of heads"),
    (SwigluConfig, {"frames_per_token": 0}, "frames_per_token"),
    (SwigluConfig, {"dropout": 1.5}, "dropout")])
def test_values_that_do_not_fit_are_refused(config, keys, said):
    with pytest.raises(ValidationError, match=said):
        config(**keys)


def test_configs_need_no_torch():
    code = "import sys; sys.modules['torch'] = None; import auricle.models.speech_llm.projector_configs"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
