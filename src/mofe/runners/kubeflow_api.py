"""Access to Kubeflow Pipelines through the kfp client, and to paths of its API that the client has no method for."""

import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from mofe.errors import MofeError, server_message


@dataclass(frozen=True)
class Kubeflow:
    """An installation of Kubeflow Pipelines, and the settings that all calls to it share.

    The kfp client finds the credentials: ``KFP_TOKEN`` in the environment, a token of the pod that this process runs
    in, or the current Kubernetes context.
    """

    host: str = ""
    """Address; "" takes the cluster that this process runs in or that kubectl is configured for."""
    namespace: str = ""
    """Namespace of the user, where Kubeflow has several."""
    registry: str = ""
    """Registry of the images; "" keeps those that the pipeline names."""
    log: Callable[[str], None] = print
    """Function that is called with each line of progress."""

    def client(self) -> Any:
        """Connect with the kfp client.

        Raises:
            MofeError: Kubeflow cannot be reached.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from kfp import Client

            logging.getLogger().setLevel(logging.CRITICAL)  # the client logs every failed attempt with a traceback
            try:
                return Client(self.host or None, existing_token=os.environ.get("KFP_TOKEN"))
            except Exception as error:
                default = "no --host was given, and Kubeflow at kubectl's current context"
                where = f"Kubeflow at {self.host}" if self.host else default
                raise MofeError(f"{where} cannot be reached: {server_message(error)}") from error

    @contextmanager
    def access(self, refusal: str) -> Iterator[None]:
        """Turn errors of the client, the API or the connection within the context into MofeError.

        ``refusal`` says what Kubeflow did not do: the message is "Kubeflow at HOST refusal: reason".
        """
        try:
            yield
        except Exception as error:
            where = self.host or "the current context"
            raise MofeError(f"Kubeflow at {where} {refusal}: {server_message(error)}") from error


def get(client: Any, path: str) -> str:
    """Request a path of Kubeflow's API that the client has no method for; return the body of the answer."""
    api = client._run_api.api_client
    answer = api.call_api(path, "GET", auth_settings=["Bearer"], _preload_content=False, _return_http_data_only=True)
    return str(answer.data.decode("utf-8", errors="replace"))


def pages(listing: Callable[..., Any], **options: Any) -> Iterator[Any]:
    """Yield all pages of a method of the client that lists something."""
    page = ""
    while True:
        listed = listing(page_token=page, page_size=100, **options)
        yield listed
        page = listed.next_page_token
        if not page:
            return
