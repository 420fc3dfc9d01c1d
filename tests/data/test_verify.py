import pytest
import xxhash

from auricle.core.errors import DataError
from auricle.data.prepare import prepare
from auricle.data.sources.librispeech import candidates
from auricle.data.verify import verify
from tests.data.sources.test_librispeech import sample


def test_workers_keep_a_checksum_of_each_file(tmp_path):
    one, two = (prepare(sample(tmp_path / "corpus"), tmp_path / f"m{n}", workers=n) for n in (1, 2))
    files = [candidate.audio for candidate in candidates(sample(tmp_path / "other"))]
    assert one.column("checksum") == [xxhash.xxh3_64_hexdigest(file.read_bytes()) for file in files]
    assert one.fingerprint == two.fingerprint
    assert verify(one) == []
    without = prepare(sample(tmp_path / "corpus").model_copy(update={"checksums": False}), tmp_path / "m3", workers=1)
    with pytest.raises(DataError, match="has no checksums"):
        verify(without)


def test_what_changes_after_preparation_is_found(tmp_path):
    manifest = prepare(sample(tmp_path / "corpus"), tmp_path / "m", workers=1)
    gone, changed = manifest.row(0).audio, manifest.row(2).audio
    gone.unlink()
    content = bytearray(changed.read_bytes())
    content[-20] ^= 4
    changed.write_bytes(content)
    assert {damage.id: damage.what for damage in verify(manifest)} == {gone.stem: "gone", changed.stem: "changed"}
    assert [damage.id for damage in verify(manifest.where(rows=[1, 2]))] == [changed.stem]
