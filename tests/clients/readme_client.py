"""The README's examples, run as they stand: only the address is the test server's."""

import os
import re
import subprocess

import pytest
from conftest import ROOT, built

README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def millm(server, line: str) -> str:
    environment = {**os.environ, "MILLM_SERVER": server.url}
    command = re.sub(r"^millm", str(built("millm", "MILLM_BIN")), line)
    done = subprocess.run(["bash", "-c", command], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"$ {line}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def console() -> list[tuple[str, str]]:
    """Each command with the output that the README shows for it; the server runs already."""
    (block,) = blocks("console")
    steps = re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE)
    assert [step for step, _ in steps[:1]] == ["millm serve"]
    return steps[1:]


def test_the_examples(server, console, capsys):
    end = next(i for i, (line, _) in enumerate(console) if line.startswith("millm unload"))
    for line, shown in console[:end]:
        said = millm(server, line)
        assert shown in said, f"$ {line}\n{said}"

    (python,) = blocks("python")
    exec(compile(python.replace("http://127.0.0.1:8000", server.url), "README.md", "exec"), {})
    assert capsys.readouterr().out.strip() == "The capital of Japan is Tokyo."

    for line, _ in console[end:]:
        millm(server, line)


def test_the_curl_examples(server):
    lines = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("curl")]
    assert len(lines) >= 3
    for line in lines:
        endless = "/events" in line
        command = line.replace("localhost:8000", server.url.removeprefix("http://"))
        command = command.replace("curl ", "curl -m 2 " if endless else "curl -f ", 1)
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
        # 28: the time we gave an endless stream is over.
        assert done.returncode == (28 if endless else 0), f"{line}\n{done.stdout}{done.stderr}"
