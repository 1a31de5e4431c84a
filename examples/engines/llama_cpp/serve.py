"""llama.cpp's own HTTP server, from the package xllamacpp, in this process: until it is ended.

python -m examples.engines.llama_cpp.serve BASE.gguf --adapter ROUTER.gguf --port 8080

Prints its address when it is ready. It has the paths and fields of ``llama-server``, which is what one runs in
production: ``llama-server -m BASE.gguf --lora ROUTER.gguf --metrics``.
"""

from __future__ import annotations

import argparse
import signal

import xllamacpp


def start(base: str, adapters: list[str], port: int, alias: str = "", context: int = 2048) -> xllamacpp.Server:
    """A server that listens on the loopback; port 0 takes a free one. All adapters are at scale 1.

    alias: the base's name in the list of models, by default its path

    One thread: several wait for each other in a busy loop, which on a machine with other work is many times slower.
    """
    params = xllamacpp.CommonParams()
    params.model.path = base
    params.model_alias = {alias} if alias else set()
    params.hostnames = ["127.0.0.1"]
    params.port = port
    params.n_ctx = context
    params.n_parallel = 1
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
    given = parser.parse_args()
    server = start(given.base, given.adapter, given.port, given.alias)
    print(server.listening_address, flush=True)
    signal.sigwait({signal.SIGINT, signal.SIGTERM})


if __name__ == "__main__":
    main()
