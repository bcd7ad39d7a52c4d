"""`diffclass web` as a person starts and stops it."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from socket import gethostname
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from diffclass.web import Address, make_token
from tiny_mixture import save_mixture
from tiny_web import client_of, png, tiny_app


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C is another thing there")
def test_it_is_started_asked_and_stopped_and_leaves_nothing_on_the_disk(tmp_path: Path) -> None:
    model, scratch = save_mixture(tmp_path / "mine"), tmp_path / "scratch"
    scratch.mkdir()
    as_in_a_terminal = "import signal, diffclass.cli; signal.signal(signal.SIGINT, signal.default_int_handler)"
    command = [
        sys.executable,
        "-c",
        f"{as_in_a_terminal}; diffclass.cli.main()",
        "web",
        "--port",
        "0",
        "--model",
        str(model),
        "--token",
        "auto",
    ]
    environment = {**os.environ, "TMPDIR": str(scratch), "HOME": str(scratch)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:  # fmt: skip
        assert process.stdout is not None
        url, token = json.loads(process.stdout.readline())["url"].split("/#token=")
        request = Request(f"{url}/api/v1/classify?model=mine", data=png(0))
        with pytest.raises(HTTPError) as refused:
            urlopen(request, timeout=30)
        assert refused.value.code == 401
        refused.value.close()
        request.add_header("Authorization", f"Bearer {token}")
        with urlopen(request, timeout=30) as response:
            assert json.loads(response.read())["label"] == "1"
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
    assert (said, process.returncode) == ("Stopped.\n", 130)
    assert [path for path in scratch.rglob("*") if path.is_file()] == []


def test_addresses() -> None:
    assert Address().url(8765) == "http://127.0.0.1:8765/"
    token = make_token()
    assert len(token) >= 32
    assert token != make_token()
    assert Address(host="::1", token=token).url(80) == f"http://[::1]:80/#token={token}"
    assert Address(host="localhost").token is None
    everywhere = Address(host="0.0.0.0", token=token)
    assert everywhere.url(80) == f"http://{gethostname()}:80/#token={token}"
    with client_of(tiny_app(token=token, hosts=[everywhere.name])) as client:  # the link that is printed may be used
        assert client.get("/", headers={"host": f"{gethostname()}:80"}).status_code == 200
    with Address(port=0).listen() as listener:
        assert listener.getsockname()[0] == "127.0.0.1"
