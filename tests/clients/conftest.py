"""A running server with the trained tiny model on its hub, for the clients' tests.

MILLM_URL names one that runs already (MILLM_GRPC its gRPC target when that is elsewhere, MILLM_REPO the repository
on its hub); otherwise the built binaries are started on free ports and an empty folder. MILLM_HUB names another hub
for that server, one that holds the tiny model as MILLM_REPO: the same downloads then come from there.
"""

import grpc
import pytest
from reflected import Reflected
from started import FIXTURES, ROOT, Server, built, free_port, running, wait_ready

__all__ = ["FIXTURES", "ROOT", "Server", "built", "free_port", "wait_ready"]


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    with running(tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture(scope="session")
def api(server):
    with grpc.insecure_channel(server.grpc) as channel:
        yield Reflected(channel)


@pytest.fixture(scope="module")
def model(api, server):
    """The trained model with its published weights, downloaded and loaded: its handle."""
    handle = "clients-tiny"
    if not any(found.handle == handle for found in api.catalog("ListModels").models):
        api.pull(server.repo, handle, "QUANTIZATION_NATIVE")
    api.ensure_loaded(handle)
    return handle
