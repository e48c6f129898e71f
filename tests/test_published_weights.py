"""Published weights by name: fetched once, checked, and told of where they cannot be had."""

import dataclasses
import hashlib
import re
import urllib.parse

import pytest

from resnet_jax.config import validate
from resnet_jax.errors import InputError
from resnet_jax.models import published_weights
from resnet_jax.models.published_weights import PUBLISHED, Published, locate
from tests.helpers import Server

NAME, CONTENT = "torchvision/net.IMAGENET1K_V1", b"weights" * 1000
DIGITS = hashlib.sha256(CONTENT).hexdigest()[:8]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The folder that weights are kept in, with the net `NAME` published nowhere yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "resnet_jax" / "weights"


def publish(monkeypatch, url, digits=DIGITS):
    net = Published(f"{url}/net-{digits}.pth", digits, 75.0, {})
    monkeypatch.setattr(published_weights, "PUBLISHED", {NAME: net})
    return net


def test_published_weights_are_fetched_once_and_kept(cache, monkeypatch, tmp_path):
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / f"net-{DIGITS}.pth").write_bytes(CONTENT)
    with Server(tmp_path / "files") as server:
        publish(monkeypatch, server.url)
        found = locate(NAME)
        assert found == cache / f"net-{DIGITS}.pth" and found.read_bytes() == CONTENT
        assert locate(NAME) == found and len(server.requests) == 1
    assert [path.name for path in cache.iterdir()] == [found.name]


def test_a_file_that_is_not_what_was_published_is_not_kept(cache, monkeypatch, tmp_path):
    (tmp_path / "net-00000000.pth").write_bytes(CONTENT)
    with Server(tmp_path) as server:
        net = publish(monkeypatch, server.url, "00000000")
        with pytest.raises(InputError) as caught:
            locate(NAME)
    message = str(caught.value)
    assert f"came with the checksum {DIGITS}" in message and "\n" not in message
    assert f"fetch {net.url} by other means and put it at {cache}/net-00000000.pth" in message
    assert message.endswith("its SHA-256 has to start with 00000000")
    assert not list(cache.iterdir())


def test_a_kept_file_is_checked_again(cache, monkeypatch):
    net = publish(monkeypatch, "http://127.0.0.1:9")
    cache.mkdir(parents=True)
    (cache / net.file_name).write_bytes(CONTENT[:-1])
    with pytest.raises(InputError, match="is damaged; remove it; fetch http"):
        locate(NAME)
    (cache / net.file_name).write_bytes(CONTENT)
    assert locate(NAME) == cache / net.file_name


@pytest.mark.parametrize("there", [True, False])
def test_without_a_connection_the_line_says_what_to_put_where(cache, monkeypatch, tmp_path, there):
    with Server(tmp_path) as server:
        url = server.url
        if there:  # a server that does not have it
            net = publish(monkeypatch, url)
            with pytest.raises(InputError, match="cannot be fetched \\(404") as caught:
                locate(NAME)
    if not there:
        net = publish(monkeypatch, url)
        with pytest.raises(InputError, match="cannot be fetched") as caught:
            locate(NAME)
    (line,) = str(caught.value).splitlines()
    assert f"fetch {net.url} by other means and put it at {cache / net.file_name}" in line
    assert line.endswith(f"start with {DIGITS}") and not list(cache.iterdir())


def test_a_path_is_what_it_is_and_another_name_has_near_ones(cache, tmp_path):
    path = tmp_path / "net.safetensors"
    path.write_bytes(b"")
    assert locate(str(path)) == path
    with pytest.raises(InputError, match="does not exist, and is no published name") as one:
        locate("torchvision/resnet50.IMAGENET1K_V3")
    assert "torchvision/resnet50.IMAGENET1K_V1" in str(one.value)
    with pytest.raises(InputError, match="for example torchvision/resnet18"):
        locate("zzz")


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_file_is_of_a_net_that_there_is(name):
    net = PUBLISHED[name]
    assert net.file_name == f"{name.split('/')[1].split('.')[0]}-{net.sha256}.pth"
    assert re.fullmatch("[0-9a-f]{8}", net.sha256) and 65 < net.top1 < 85
    assert urllib.parse.urlparse(net.url).hostname == "download.pytorch.org"
    model = validate({"model": net.model}).model
    called = model.net.lower().replace("-", "").replace("mobilenetv3", "mobilenet_v3_")
    called = called.replace("swin", "swin_")
    assert name.startswith(f"torchvision/{called}")
    fields = {field.name for field in dataclasses.fields(model)}
    assert net.model.keys() <= fields and {"family"} < net.model.keys()


def test_the_table_is_torchvisions_where_that_is_installed():
    try:
        models = __import__("torchvision.models").models
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"torchvision is not at hand: {error}")
    for name, net in PUBLISHED.items():
        function, weights = name.removeprefix("torchvision/").split(".")
        theirs = models.get_model_weights(function)[weights]
        assert theirs.url == net.url
        assert theirs.meta["_metrics"]["ImageNet-1K"]["acc@1"] == net.top1
