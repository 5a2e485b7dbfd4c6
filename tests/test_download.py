"""Downloads from a small hub on loopback that can lie, break off and be away."""

import concurrent.futures
import contextlib
import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
import types
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import constants, file_download

from rearm_jax.data.dataset import load_dataset
from rearm_jax.data.download import DATASETS, HubDataset, HubFile, download
from rearm_jax.errors import DataError
from rearm_jax.experiment import build_experiment
from tests.conftest import tiny_config
from tests.test_dataset import MODALITIES, example, write

ROOT = Path(__file__).parent.parent
REPOSITORY, COMMIT = "Someone/Tiny", "c0ffee" * 6 + "c0ff"
FILES = ("train.npy", "valid.npy", "test.npy", "image_feat.npy", "text_feat.npy")


class Hub(http.server.ThreadingHTTPServer):
    """Serves the two paths of the hub's API that a download needs, and does what `faults` says.

    Attributes:
        files: path in the repository -> bytes.
        served: path -> bytes that are sent in the place of those that are listed.
        cut: path -> number of bytes after which a connection breaks off (0 too: nothing more is sent).
        status: of every answer, if it is not 200.
        ranges: (path, Range header or None), for each request of a file.
    """

    daemon_threads = True

    def __init__(self, files):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.served, self.cut, self.status, self.ranges = dict(files), {}, {}, 200, []
        self.error_code = ""

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        path = self.path.partition("?")[0]
        hub = self.server
        if hub.status != 200:
            self.answer(b"{}", hub.status, {"X-Error-Code": hub.error_code} if hub.error_code else {})
        elif path == f"/api/datasets/{REPOSITORY}/revision/main":
            siblings = [listed(name, content) for name, content in hub.files.items()]
            self.answer(json.dumps({"id": REPOSITORY, "sha": COMMIT, "siblings": siblings}).encode())
        elif path.startswith(prefix := f"/datasets/{REPOSITORY}/resolve/{COMMIT}/"):
            self.send_file(path.removeprefix(prefix))
        else:
            self.answer(b"{}", 404, {"X-Error-Code": "RevisionNotFound" if "/revision/" in path else ""})

    def send_file(self, name):
        hub = self.server
        hub.ranges.append((name, self.headers["Range"]))
        content = hub.served.get(name, hub.files[name])
        start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-")) if self.headers["Range"] else 0
        headers = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"} if start else {}
        end = hub.cut.get(name, len(content))
        self.answer(content[start:], 206 if start else 200, headers, sent=max(0, end - start))

    def answer(self, body, status=200, headers=None, sent=None):
        self.send_response(status)
        for key, value in {"Content-Length": len(body), **(headers or {})}.items():
            self.send_header(key, str(value))
        self.end_headers()
        self.wfile.write(body[:sent])
        self.close_connection = True

    def log_message(self, *_):
        pass


def listed(name, content):
    """A file as the hub lists it: in LFS if it is large (here: features), else with the hash of its git blob."""
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    entry = {"rfilename": name, "size": len(content), "blobId": blob}
    if name.endswith("_feat.npy"):
        entry["lfs"] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
    return entry


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub with the example of test_dataset, in two folders, and "baby" naming it."""
    (tmp_path / "source").mkdir()
    write(tmp_path / "source")
    contents = {name: (tmp_path / "source" / name).read_bytes() for name in FILES}
    shapes = {"image_feat.npy": (5, 3), "text_feat.npy": (5, 2)}
    expected = {
        name: HubFile(hashlib.sha256(content).hexdigest(), shapes.get(name), "float32")
        for name, content in contents.items()
    }
    monkeypatch.setitem(DATASETS, "baby", HubDataset(REPOSITORY, expected))
    places = {name: f"features/{name}" if name in shapes else name for name in FILES}
    server = Hub({places[name]: content for name, content in contents.items()} | {"README.md": b"hello"})
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 10)  # bytes that arrive, or are lost, together
    monkeypatch.setattr(file_download, "time", types.SimpleNamespace(sleep=lambda seconds: None))  # between attempts
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def refused(folder, *words, **arguments):
    """Asserts that nothing is placed, with a message that holds all the words; returns it."""
    before = {path.name: path.read_bytes() for path in folder.iterdir()} if folder.exists() else None
    with pytest.raises(DataError) as caught:
        download("baby", folder, **arguments)
    message = str(caught.value)
    for word in words:
        assert str(word) in message, message
    assert before == ({path.name: path.read_bytes() for path in folder.iterdir()} if folder.exists() else None)
    return message


def names(folder):
    return sorted(path.name for path in folder.iterdir())


# What is known of the real data sets


def test_the_known_interactions():
    root = os.environ.get("REARM_DATA")
    if root is None:
        pytest.skip("REARM_DATA is not set: it names the folder of the data sets")
    for name, dataset in DATASETS.items():
        num_items = dataset.files["image_feat.npy"].shape[0]
        for split in ("train", "valid", "test"):
            content = (Path(root) / name / f"{split}.npy").read_bytes()
            assert hashlib.sha256(content).hexdigest() == dataset.files[f"{split}.npy"].sha256
            assert np.load(Path(root) / name / f"{split}.npy")[1].max() < num_items


def test_the_known_features():
    """Bytes of the files in common use: a header of 128, and the numbers."""
    bytes_of = {
        "baby": (231014528, 10828928),
        "sports": (601522304, 28196480),
        "clothing": (754745472, 35378816),
    }
    assert DATASETS.keys() == bytes_of.keys()
    for name, sizes in bytes_of.items():
        files = DATASETS[name].files
        assert tuple(files) == FILES
        assert DATASETS[name].repository == f"MrShouxingMa/{name.capitalize()}"
        for file, size in zip(("image_feat.npy", "text_feat.npy"), sizes, strict=True):
            assert 128 + np.prod(files[file].shape) * np.dtype(files[file].dtype).itemsize == size
    assert len({file.sha256 for dataset in DATASETS.values() for file in dataset.files.values()}) == 15


def test_the_hash_of_a_git_blob():
    assert listed("x", b"hello\n")["blobId"] == "ce013625030ba8dba906f756967f9e9ca394464a"  # git hash-object


# The way there


def test_download_places_the_folder_and_nothing_else(tmp_path, hub, caplog):
    caplog.set_level("WARNING")
    folder = tmp_path / "data" / "baby"
    download("baby", f"{folder}/")
    assert names(folder) == sorted(FILES)
    assert names(tmp_path / "data") == ["baby"]
    for name in FILES:
        assert (folder / name).read_bytes() == (tmp_path / "source" / name).read_bytes()
    np.testing.assert_array_equal(load_dataset(folder, MODALITIES).features["text"], example()["text_feat"])
    assert not caplog.records


def test_what_is_there_is_verified_without_the_hub(tmp_path, hub, caplog):
    folder = tmp_path / "baby"
    download("baby", folder)
    hub.status = 500
    caplog.set_level("INFO", "absl")
    download("baby", folder)
    assert "complete and verified: nothing to download" in caplog.text
    content = (folder / "train.npy").read_bytes()
    (folder / "train.npy").write_bytes(content[:-1] + b"x")
    refused(folder, folder, "is not the data set baby", folder / "train.npy", "SHA-256", "Nothing was changed")
    (folder / "train.npy").unlink()
    refused(folder, f"{folder / 'train.npy'} is missing")
    (folder / "train.npy").write_bytes(content)
    np.save(folder / "text_feat.npy", example()["text_feat"][:4])
    refused(folder, folder / "text_feat.npy", "float32 (4, 2)", "float32 (5, 2)")


def test_a_broken_connection_is_resumed_within_a_call(tmp_path, hub):
    """The server breaks off every connection after at most 50 bytes: each goes on where the last one ended."""
    name = "features/image_feat.npy"
    original = Handler.send_file

    def send_file(handler, path):
        start = int((handler.headers["Range"] or "bytes=0-").removeprefix("bytes=").rstrip("-"))
        hub.cut[name] = start + 50
        original(handler, path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Handler, "send_file", send_file)
        download("baby", tmp_path / "baby")
    starts = [given for path, given in hub.ranges if path == name]
    size = len(hub.files[name])
    assert starts == [None, *(f"bytes={start}-" for start in range(50, size, 50))]


def test_a_dropped_connection_is_resumed_by_the_next_call(tmp_path, hub):
    folder, name = tmp_path / "baby", "features/image_feat.npy"
    hub.cut[name] = 100
    refused(folder, "could not be downloaded", "kept in", f"{folder}.partial", "/tree/main", *FILES)
    assert all((tmp_path / "baby.partial" / file).exists() for file in FILES[:3])
    [incomplete] = (tmp_path / "baby.partial").glob("image_feat.npy.*.incomplete")
    assert incomplete.read_bytes() == hub.files[name][:100]
    hub.cut.clear()
    hub.ranges.clear()
    download("baby", folder)
    assert hub.ranges == [(name, "bytes=100-"), ("features/text_feat.npy", None)]
    assert names(folder) == sorted(FILES)
    assert (folder / "image_feat.npy").read_bytes() == hub.files[name]


def test_another_version_is_not_appended_to_what_has_arrived(tmp_path, hub):
    folder, name = tmp_path / "baby", "features/image_feat.npy"
    hub.cut[name] = 150
    refused(folder)
    hub.cut.clear()
    hub.ranges.clear()
    hub.files[name] = saved(tmp_path, example()["image_feat"] + 1)
    download("baby", folder)
    assert (name, None) in hub.ranges
    assert (folder / "image_feat.npy").read_bytes() == hub.files[name]
    assert names(folder) == sorted(FILES)  # the remains of the first version are gone


def test_more_than_the_whole_file_is_started_anew(tmp_path, hub):
    folder, name = tmp_path / "baby", "features/text_feat.npy"
    hub.cut[name] = 30
    refused(folder)
    [incomplete] = (tmp_path / "baby.partial").glob("text_feat.npy.*.incomplete")
    incomplete.write_bytes(bytes(1000))
    hub.cut.clear()
    hub.ranges.clear()
    download("baby", folder)
    assert hub.ranges == [(name, None)]
    assert (folder / "text_feat.npy").read_bytes() == hub.files[name]


@pytest.mark.parametrize("digest", ["", "../../../../x", "F" * 40, "0" * 41])
def test_a_list_with_hashes_that_are_none_is_refused(tmp_path, hub, monkeypatch, digest):
    """The hash becomes part of a file's name."""
    monkeypatch.setattr(
        sys.modules[__name__], "listed", lambda name, _: {"rfilename": name, "size": 9, "blobId": digest}
    )
    refused(tmp_path / "baby", "train.npy without size and hash")
    assert names(tmp_path / "baby.partial") == []


def saved(tmp_path, array):
    np.save(tmp_path / "array.npy", array)
    return (tmp_path / "array.npy").read_bytes()


def test_a_truncated_file_is_refused(tmp_path, hub):
    folder, name = tmp_path / "baby", "features/text_feat.npy"
    hub.served[name] = hub.files[name][:-7]
    refused(folder, "text_feat.npy", str(len(hub.files[name])))
    hub.served.clear()
    download("baby", folder)
    assert (folder / "text_feat.npy").read_bytes() == hub.files[name]


@pytest.mark.parametrize("name", ["valid.npy", "features/image_feat.npy"])
def test_a_file_that_arrives_damaged_is_fetched_again(tmp_path, hub, name):
    """Of the right size, but not what the hub lists."""
    folder = tmp_path / "baby"
    hub.served[name] = hub.files[name][:-1] + b"x"
    refused(folder, name.split("/")[-1], "arrived damaged", "Nothing was put into")
    assert not list((tmp_path / "baby.partial").glob(f"{name.split('/')[-1]}*"))
    hub.served.clear()
    download("baby", folder)
    assert names(folder) == sorted(FILES)


def test_other_interactions_are_refused(tmp_path, hub):
    folder = tmp_path / "baby"
    hub.files["train.npy"] = content = saved(tmp_path, example()["train"][:3])
    known = DATASETS["baby"].files["train.npy"].sha256
    refused(folder, "train.npy", hashlib.sha256(content).hexdigest(), known, "revision main", "Nothing was put into")


def test_other_features_are_a_warning(tmp_path, hub, caplog):
    folder = tmp_path / "baby"
    hub.files["features/text_feat.npy"] = content = saved(tmp_path, example()["text_feat"] + 1)
    caplog.set_level("WARNING", "absl")
    download("baby", folder)
    [record] = caplog.records
    for word in ("text_feat.npy", hashlib.sha256(content).hexdigest(), DATASETS["baby"].files["text_feat.npy"].sha256):
        assert word in record.getMessage()
    assert (folder / "text_feat.npy").read_bytes() == content


@pytest.mark.parametrize("array", [np.zeros((6, 2), np.float32), np.zeros((5, 2)), np.zeros((5, 2), np.int32)])
def test_features_of_another_shape_or_type_are_refused(tmp_path, hub, array):
    hub.files["features/text_feat.npy"] = saved(tmp_path, array)
    refused(tmp_path / "baby", "text_feat.npy", array.shape, array.dtype, "must hold float32 (5, 2)")


def test_missing_and_ambiguous_files(tmp_path, hub):
    hub.files["copy/train.npy"] = hub.files["train.npy"]
    refused(tmp_path / "baby", "train.npy is ambiguous", "train.npy, copy/train.npy")
    del hub.files["copy/train.npy"], hub.files["train.npy"]
    refused(tmp_path / "baby", "train.npy is missing", REPOSITORY, "README.md")


def test_another_process_may_have_been_faster(tmp_path, hub, monkeypatch, caplog):
    """Between the look at the folder and the lock, another process places it: it is verified, not fetched."""
    folder = tmp_path / "baby"

    @contextlib.contextmanager
    def lock(path):
        folder.mkdir()
        write(folder)
        yield

    monkeypatch.setattr("huggingface_hub.utils.WeakFileLock", lock)
    caplog.set_level("INFO", "absl")
    download("baby", folder)
    assert "nothing to download" in caplog.text
    assert not hub.ranges


# When the hub does not answer as it should


def test_offline_gives_the_manual_way(tmp_path, hub, monkeypatch):
    manual = (f"{hub.url}/datasets/{REPOSITORY}/tree/v2", *FILES, tmp_path / "baby")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    refused(tmp_path / "baby", "offline mode", "HF_HUB_OFFLINE", *manual, revision="v2")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # the discard port: nobody answers
    refused(tmp_path / "baby", "no connection (ConnectError", "By hand")


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (401, "RepoNotFound", "no such data set, or it is private"),
        (401, "", "the hub answered 401"),
        (404, "RepoNotFound", "no such data set, or it is private"),
        (403, "GatedRepo", "its owner grants access"),
        (404, "RevisionNotFound", "there is no revision 'main'"),
        (429, "", "the hub answered 429"),
        (503, "", "the hub answered 503"),
        (204, "", "no connection (JSONDecodeError"),
    ],
)
def test_refusals_of_the_hub(tmp_path, hub, status, code, words):
    hub.status, hub.error_code = status, code
    refused(tmp_path / "baby", words, "By hand")


def test_a_revision_that_is_not_there(tmp_path, hub):
    refused(tmp_path / "baby", "there is no revision 'v7'", revision="v7")


def test_a_folder_that_cannot_be_written(tmp_path, hub):
    (tmp_path / "file").touch()
    refused(tmp_path / "file" / "baby", "could not be downloaded", tmp_path / "file")


# The doors


def run(tmp_path, hub, *arguments, **environment):
    """The command line in a process of its own, with the data set of the test."""
    script = "import sys\nfrom rearm_jax.data.download import DATASETS, HubDataset, HubFile, main\n"
    script += f"DATASETS['baby'] = {DATASETS['baby']!r}\nsys.exit(main())"
    return subprocess.run(
        [sys.executable, "-c", script, *arguments],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "HF_ENDPOINT": hub.url} | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_command_line(tmp_path, hub):
    done = run(tmp_path, hub, "baby", "--root", "sets")
    assert (done.returncode, done.stdout) == (0, "sets/baby\n"), done.stderr
    assert done.stderr == "sets/baby: baby downloaded and verified\n"
    assert names(tmp_path / "sets" / "baby") == sorted(FILES)
    done = run(tmp_path, hub, "baby", "--root", "sets", HF_HUB_OFFLINE="1")
    assert (done.returncode, done.stdout) == (0, "sets/baby\n"), done.stderr
    done = run(tmp_path, hub, "baby", "--root", "~/sets", HF_HUB_OFFLINE="1", HOME=str(tmp_path))
    assert (done.returncode, done.stdout) == (0, f"{tmp_path / 'sets' / 'baby'}\n"), done.stderr
    done = run(tmp_path, hub, "baby", HF_HUB_OFFLINE="1")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error: baby could not be downloaded from {hub.url}/datasets/{REPOSITORY}: offline")
    assert "Traceback" not in done.stderr
    done = run(tmp_path, hub, "tiktok")
    assert (done.returncode, done.stdout) == (1, "")
    assert "invalid choice: 'tiktok'" in done.stderr


def test_processes_download_once(tmp_path, hub):
    with concurrent.futures.ThreadPoolExecutor() as pool:
        results = list(pool.map(lambda _: run(tmp_path, hub, "baby", "--root", "."), range(3)))
    assert [done.returncode for done in results] == [0, 0, 0]
    assert sum("downloaded" in done.stderr for done in results) == 1
    assert sum("nothing to download" in done.stderr for done in results) == 2
    assert sorted(path for path, _ in hub.ranges) == sorted(hub.files.keys() - {"README.md"})
    assert names(tmp_path / "baby") == sorted(FILES)
    assert not list(tmp_path.glob("baby.*"))


def test_an_experiment_downloads_a_missing_folder(tmp_path, hub):
    root = tmp_path / "data" / "baby"
    small = {"graph.user_knn_k": 2, "graph.item_knn_k": 2, "evaluation.ks": (2,), "evaluation.metric": "recall@2"}
    changes = {"data.source": "folder", "data.root": str(root), "data.name": "baby", **small}
    with pytest.raises(DataError, match=r"check data\.root"):
        build_experiment(tiny_config(**changes, **{"data.download": False}))
    with pytest.raises(DataError, match=r"check data\.root"):
        build_experiment(tiny_config(**changes | {"data.name": ""}))
    assert not hub.ranges
    dataset = build_experiment(tiny_config(**changes)).dataset
    assert (dataset.num_users, dataset.num_items) == (4, 5)
    hub.status = 500
    assert build_experiment(tiny_config(**changes)).dataset.content_hash == dataset.content_hash
