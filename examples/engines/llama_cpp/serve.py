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
CACHES = {
    "f16": xllamacpp.ggml_type.GGML_TYPE_F16,
    "f32": xllamacpp.ggml_type.GGML_TYPE_F32,
    "q8_0": xllamacpp.ggml_type.GGML_TYPE_Q8_0,
}
FLASH_ATTENTION = {
    "auto": xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_AUTO,
    "on": xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_ENABLED,
    "off": xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED,
}


@dataclass(frozen=True, slots=True)
class Settings:
    """alias: the base's name in the list of models, "" for its path; slots: requests computed side by side
    piece: most tokens of a prompt that are computed at once; threads: several wait for each other in a busy loop, which
    on a machine with other work is many times slower
    cache: type of keys and values, one of CACHES; flash_attention: one of FLASH_ATTENTION
    repacks: weights are laid out for this CPU's kernels, where it has some
    """

    alias: str = ""
    slots: int = 1
    piece: int = 512
    threads: int = 1
    cache: str = "f16"
    flash_attention: str = "auto"
    repacks: bool = True


def start(base: str, adapters: list[str], port: int, settings: Settings) -> xllamacpp.Server:
    """A server that listens on the loopback; port 0 takes a free one. All adapters are at scale 1."""
    params = xllamacpp.CommonParams()
    params.model.path = base
    params.model_alias = {settings.alias} if settings.alias else set()
    params.hostnames = ["127.0.0.1"]
    params.port = port
    params.n_ctx = CONTEXT * settings.slots
    params.n_parallel = settings.slots
    params.n_ubatch = settings.piece
    params.cache_type_k = params.cache_type_v = CACHES[settings.cache]
    params.flash_attn_type = FLASH_ATTENTION[settings.flash_attention]
    params.no_extra_bufts = not settings.repacks
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = settings.threads
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
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cache", choices=CACHES, default="f16", help="type of keys and values")
    parser.add_argument("--flash-attention", choices=FLASH_ATTENTION, default="auto")
    parser.add_argument(
        "--no-repack", dest="repacks", action="store_false", help="kernels for weights as they are stored"
    )
    given = vars(parser.parse_args())
    server = start(given.pop("base"), given.pop("adapter"), given.pop("port"), Settings(**given))
    print(server.listening_address, flush=True)
    signal.sigwait({signal.SIGINT, signal.SIGTERM})


if __name__ == "__main__":
    main()
