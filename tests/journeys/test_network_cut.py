"""The network is cut for 20 seconds in mid-upload (ten minutes: `python -m tests.journeys.network_cut`)."""

import pytest

from tests.journeys.network_cut import cut_in_mid_upload
from tests.namespaces import needs_namespaces
from tests.sshd import needs_sshd


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.root
@needs_namespaces
@needs_sshd
def test_training_goes_on_and_the_mirror_is_complete_afterwards(tmp_path):
    cut = cut_in_mid_upload(tmp_path, 20.0)
    assert cut.steps_meanwhile > 20
    assert cut.torn == 0
    assert cut.safe_after > cut.safe_before
