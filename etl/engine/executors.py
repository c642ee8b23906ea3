"""Executors that start workers, with the interface of `concurrent.futures.Executor`.

Workers share work, progress and requests to stop through PostgreSQL. To add an engine, add a function that opens its
executor.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from importlib import import_module
from typing import TYPE_CHECKING, Any

from etl.errors import EtlError, SettingsError, install_extra

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from etl.config import EngineSettings

_CONNECT_S = 10.0  # time limit for connecting to an engine
_ORPHAN_S = 10.0  # after this time, a process whose parent is dead exits; normally the invocation has stopped by then


def open_executor(engine: EngineSettings, config: Path | None) -> tuple[Executor, int]:
    """Return an executor and its number of workers.

    Args:
        engine: the settings; `kind` is not `local`.
        config: the settings file, passed to processes on this host.

    Raises:
        SettingsError: the engine is not installed.
        EtlError: the engine cannot be reached.
    """
    if engine.kind == "processes":
        return Processes(config), engine.processes
    return _dask(engine)


class Processes(Executor):
    """Runs each call in a new process on this host.

    Each process has its own pool, because a pool terminates all its processes when one dies.
    """

    def __init__(self, config: Path | None) -> None:
        self._config = config
        self._pools: list[ProcessPoolExecutor] = []

    def submit(self, function: Callable[..., Any], /, *args: Any, **named: Any) -> Future[Any]:
        """Call a function in a new process."""
        context = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(1, mp_context=context, initializer=_prepare, initargs=(self._config,))
        self._pools.append(pool)
        return pool.submit(function, *args, **named)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002 - as in Executor
        """Shut down all pools."""
        for pool in self._pools:
            pool.shutdown(wait, cancel_futures=cancel_futures)


def _prepare(config: Path | None) -> None:
    """Prepare a new process: use the settings file of the parent, ignore SIGINT, and exit when the parent dies."""
    if config is not None:
        os.environ["CORTEX_ETL_CONFIG"] = str(config)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        time.sleep(_ORPHAN_S)
        os._exit(1)


def _dask(engine: EngineSettings) -> tuple[Executor, int]:
    try:
        distributed: Any = import_module("distributed")  # an optional dependency
    except ImportError:
        raise SettingsError("Dask is not installed", hint=f"Run: {install_extra('dask')}") from None
    assert engine.address is not None  # noqa: S101 - checked by the settings
    security = None
    if engine.address.startswith("tls://"):
        files = {"tls_ca_file": engine.tls_ca, "tls_client_cert": engine.tls_cert, "tls_client_key": engine.tls_key}
        named = {name: str(path) for name, path in files.items() if path is not None}
        if len(named) < len(files):
            raise SettingsError(
                f"{engine.address} needs engine.tls_ca, engine.tls_cert and engine.tls_key",
                hint="Set all three to the files of this host, or use tcp:// on a loopback host.",
            )
        security = distributed.Security(require_encryption=True, **named)
    try:
        client = distributed.Client(engine.address, security=security, timeout=_CONNECT_S, set_as_default=False)
    except (OSError, ValueError, RuntimeError) as error:
        raise EtlError(
            f"the Dask scheduler at {engine.address} cannot be reached: {error or type(error).__name__}",
            hint="Start it, or correct engine.address and the TLS files.",
        ) from None
    count = len(client.scheduler_info(n_workers=-1)["workers"])
    if not count:
        client.close()
        raise EtlError(
            f"the Dask scheduler at {engine.address} has no workers", hint="Start workers, then run it again."
        )
    return _DaskExecutor(client), min(engine.workers or count, count)


class _DaskExecutor(Executor):
    """Runs calls on the workers of a Dask cluster."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._executor = client.get_executor(pure=False)
        self._futures: list[Future[Any]] = []

    def submit(self, function: Callable[..., Any], /, *args: Any, **named: Any) -> Future[Any]:
        """Call a function on one of the workers."""
        self._futures.append(self._executor.submit(function, *args, **named))
        return self._futures[-1]

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002 - as in Executor
        """Disconnect from the cluster."""
        for future in self._futures if cancel_futures else ():
            future.cancel()  # has an effect only if no worker has started it
        self._executor.shutdown(wait=wait)
        self._client.close()
