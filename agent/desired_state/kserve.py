"""Which adapters should an engine serve? What an LLMInferenceService of KServe says, read from the Kubernetes API.

Context for people and no evidence: an adapter that is missing here is judged as any other, and one that is listed may
answer as its base all the same. Read only: one GET of one object, with a role of its own. What the object takes over
from an LLMInferenceServiceConfig (``baseRefs``) is not followed, and is said.

Source: https://kserve.github.io/website/docs/model-serving/generative-inference/llmisvc/lora-adapters and the types of
serving.kserve.io v1alpha1 and v1alpha2: spec.model.name, spec.model.lora.adapters[].name.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from agent.errors import Retryable
from detectors.name_list import first_names

GROUP, RESOURCE = "serving.kserve.io", "llminferenceservices"
TOKEN, AUTHORITY = "token", "ca.crt"
TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Service:
    """One LLMInferenceService. model: the name by which requests ask for its base

    is_whole: false where it takes settings over from elsewhere, which may name more adapters
    """

    model: str
    adapters: tuple[str, ...]
    is_whole: bool


@dataclass(frozen=True, slots=True)
class Source:
    """Where it is read. service: ``namespace/name``; folder: holds a token and the API server's authority"""

    api_url: str
    service: str
    folder: Path


def read_service(source: Source) -> Service:
    """As the API server holds it now. Raises Retryable with what is wanted."""
    namespace, _, name = source.service.partition("/")
    try:
        token = (source.folder / TOKEN).read_text(encoding="ascii").strip()
        with _client(source, token) as http:
            version = _json(http.get(f"/apis/{GROUP}"), f"KServe's API {GROUP}")["preferredVersion"]["version"]
            place = f"/apis/{GROUP}/{version}/namespaces/{namespace}/{RESOURCE}/{name}"
            return _service(_json(http.get(place), f"LLMInferenceService {source.service}"))
    except OSError as error:
        wanted = f"{error.strerror}; wanted token and ca.crt of a service account"
        raise Retryable(str(source.folder), wanted) from error
    except httpx.HTTPError as error:
        raise Retryable(f"the Kubernetes API at {source.api_url}", type(error).__name__) from error
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise Retryable(f"LLMInferenceService {source.service}", f"has another shape ({error!r})") from error


def differences(desired: Service, model: str, adapters: Iterable[str], of: str) -> tuple[str, ...]:
    """In words; () for none. model, adapters: names that are watched, or that the engine lists; of: which of the two"""
    present = set(adapters)
    missing = [name for name in desired.adapters if name not in present]
    surplus = sorted(present - {*desired.adapters, desired.model, model}) if desired.is_whole else []
    words = []
    if desired.model != model:
        words.append(f"the desired model is {desired.model}, {of} is {model}")
    if missing:
        words.append(f"desired and not {of}: {first_names(missing)}")
    if surplus:
        words.append(f"{of} and not desired: {first_names(surplus)}")
    return tuple(words)


def _client(source: Source, token: str) -> httpx.Client:
    authority = str(source.folder / AUTHORITY)
    is_encrypted = source.api_url.startswith("https")
    return httpx.Client(
        base_url=source.api_url,
        headers={"Authorization": f"Bearer {token}"},
        verify=ssl.create_default_context(cafile=authority) if is_encrypted else False,
        timeout=TIMEOUT_S,
    )


def _json(answer: httpx.Response, what: str) -> dict[str, Any]:
    """Raises Retryable where the server has none of it, or says no."""
    if answer.status_code == httpx.codes.NOT_FOUND:
        raise Retryable(what, "not in this cluster")
    if answer.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
        raise Retryable(what, f"{answer.status_code}, wanted the right to get {RESOURCE}.{GROUP}")
    if answer.status_code != httpx.codes.OK:
        raise Retryable(what, f"the Kubernetes API answers {answer.status_code}")
    return dict(answer.json())


def _service(item: Mapping[str, Any]) -> Service:
    spec = item["spec"]
    model = spec["model"]
    listed = (model.get("lora") or {}).get("adapters") or []
    names = tuple(str(adapter["name"]) for adapter in listed)
    return Service(str(model.get("name") or item["metadata"]["name"]), names, not spec.get("baseRefs"))
