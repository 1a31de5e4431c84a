"""llama.cpp's own HTTP server, from the package xllamacpp, in this process: until it is ended.

python -m examples.engines.llama_cpp.serve BASE.gguf --adapter ROUTER.gguf --port 8080

Prints its address when it is ready. It has the paths and fields of ``llama-server``, which is what one runs in
production: ``llama-server -m BASE.gguf --lora ROUTER.gguf --metrics``.
"""

from __future__ import annotations

import argparse
import signal
from dataclasses import dataclass

import xllamacpp

CONTEXT = 2048  # tokens of one slot


@dataclass(frozen=True, slots=True)
class Settings:
    """alias: the base's name in the list of models, "" for its path; slots: requests computed side by side
    piece: most tokens of a prompt that are computed at once; exact_cache: keys and values in 32 bits, not in 16
    """

    alias: str = ""
    slots: int = 1
    piece: int = 512
    exact_cache: bool = False


def start(base: str, adapters: list[str], port: int, settings: Settings) -> xllamacpp.Server:
    """A server that listens on the loopback; port 0 takes a free one. All adapters are at scale 1.

    One thread: several wait for each other in a busy loop, which on a machine with other work is many times slower.
    """
    params = xllamacpp.CommonParams()
    params.model.path = base
    params.model_alias = {settings.alias} if settings.alias else set()
    params.hostnames = ["127.0.0.1"]
    params.port = port
    params.n_ctx = CONTEXT * settings.slots
    params.n_parallel = settings.slots
    params.n_ubatch = settings.piece
    if settings.exact_cache:
        params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.endpoint_metrics = True
    params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(path, 1.0) for path in adapters]
    return xllamacpp.Server(params)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base")
    parser.add_argument("--adapter", action="append", default=[])
    parser.add_argument("--alias", default="", help="the base's name in the list of models")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--slots", type=int, default=1, help="requests computed side by side")
    parser.add_argument("--piece", type=int, default=512, help="most tokens of a prompt computed at once")
    parser.add_argument("--exact-cache", action="store_true", help="keys and values in 32 bits")
    given = parser.parse_args()
    settings = Settings(given.alias, given.slots, given.piece, given.exact_cache)
    server = start(given.base, given.adapter, given.port, settings)
    print(server.listening_address, flush=True)
    signal.sigwait({signal.SIGINT, signal.SIGTERM})


if __name__ == "__main__":
    main()
