"""The kinds of value that a configuration holds beyond numbers and text.

Owns: names, URLs, secrets, PEM files, hashes of keys, header names and JSONata expressions: what
each accepts, what ``{file: …}`` reads, and the sentence that refuses the rest without repeating a
secret.
Does not know: which keys hold them.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import partial
from ipaddress import ip_network
from pathlib import Path
from re import compile as compile_pattern
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    SecretStr,
    ValidationInfo,
    WithJsonSchema,
    model_serializer,
    model_validator,
)

from gateway import yamltext
from gateway.explain import as_written, did_you_mean
from gateway.shape import Words
from gateway.validity import validity
from gateway.yamltext import Written, quoted

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"
Name = Annotated[
    str,
    Field(pattern=NAME_PATTERN),
    Words(
        "a name: a letter or digit, then letters, digits, dots, dashes or underscores, up to 128"
    ),
]
SECRET_BYTES_MAX: Final = 64 * 1024
EXPRESSION_BYTES_MAX: Final = 1024 * 1024
PEM_BYTES_MAX: Final = 1024 * 1024

_PACKAGE: Final = Path(__file__).parent
_FILE_SCHEMA: Final = {
    "anyOf": [
        {"type": "string"},
        {
            "type": "object",
            "properties": {"file": {"type": "string"}},
            "required": ["file"],
            "additionalProperties": False,
        },
    ]
}


@dataclass(frozen=True, slots=True)
class Source:
    """What validators need to read the files that the configuration names, and which those were."""

    folder: Path
    files: yamltext.Files = field(default_factory=dict)
    expressions: dict[str, dict[str, Any]] = field(default_factory=dict)


def _file_name(value: dict[str, Any], otherwise: str) -> str:
    name = value.get("file")
    if len(value) != 1 or not isinstance(name, str) or not name:
        raise ValueError(f"must be {otherwise} or {{file: name}}, with no other key")
    return name


def _read_secret(value: Any, info: ValidationInfo) -> Any:
    """A secret's text; ``{file: path}`` is read, a line break at its end taken off."""
    if isinstance(value, dict) and isinstance(info.context, Source):
        name = _file_name(value, "text")
        path = info.context.folder / name
        written = as_written(name)
        # Where a variable stands for a part of it, nobody knows here what may be shown.
        what = f"file {path if written == name else quoted(written)}"
        text = yamltext.read_text(
            path, bytes_max=SECRET_BYTES_MAX, what=what, files=info.context.files
        )
        value = text.removesuffix("\n")
    if isinstance(value, str):
        if not value:
            raise ValueError("must not be empty; leave the key out where no secret is needed")
        if not (value.isascii() and value.isprintable()) or value != value.strip():
            raise ValueError("must be one line of visible ASCII, without spaces around it")
    return value


def packaged(folder: str) -> Path:
    """Where the project's own ``transforms`` or ``config`` lie: in the installed package, else
    beside it, as in a checkout."""
    inside = _PACKAGE / {"config": "config_files"}.get(folder, folder)
    return inside if inside.is_dir() else _PACKAGE.parent / folder


Secret = Annotated[
    SecretStr,
    BeforeValidator(_read_secret),
    WithJsonSchema(_FILE_SCHEMA),
    Words("text, or {file: path} relative to the configuration's folder"),
]

_REFUSED_HEADERS: Final = {
    **dict.fromkeys(
        ("connection", "keep-alive", "proxy-authenticate", "proxy-authorization",
         "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"),
        "it concerns one connection only (hop by hop)",
    ),
    **dict.fromkeys(
        ("host", "content-length", "content-type", "content-encoding", "accept",
         "accept-encoding", "expect", "x-request-id"),
        "the gateway writes its own",
    ),
    **dict.fromkeys(
        ("x-api-key", "api-key", "authorization", "cookie", "set-cookie"),
        "it carries the client's credentials, which never go upstream",
    ),
}  # fmt: skip


def _header_name(value: str) -> str:
    name = value.lower()
    if not compile_pattern(r"[a-z0-9!#$%&'*+.^_`|~-]{1,128}").fullmatch(name):
        raise ValueError("is no header name")
    if name in _REFUSED_HEADERS:
        raise ValueError(f"cannot be forwarded: {_REFUSED_HEADERS[name]}")
    return name


def _key_hash(value: str) -> str:
    digest = value.lower()
    how = "make it with: pipeline-gateway keys hash"
    if not compile_pattern(r"[0-9a-f]{64}").fullmatch(digest):
        raise ValueError(f"must be the SHA-256 of the key, 64 hex digits; {how}")
    if digest.startswith("e3b0c44298fc1c14") and digest.endswith("a495991b7852b855"):
        raise ValueError(f"is the SHA-256 of nothing; {how}")
    return digest


def _checked_url(url: str, schemes: tuple[str, ...]) -> str:
    """``url`` without a slash at its end. Messages never repeat it: it may hold a password."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise ValueError("is not a URL: its host or port cannot be read") from None
    if parts.scheme not in schemes or "://" not in url:
        choices = ", ".join(f"{scheme}://" for scheme in schemes)
        raise ValueError(f"must begin with {' or '.join(choices.rsplit(', ', 1))}")
    if not host or not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError("must name a host, in visible ASCII without spaces")
    if parts.username is not None or parts.password is not None:
        raise ValueError("must hold no user and password; a secret has a key of its own")
    if "?" in url or "#" in url:
        raise ValueError("must end before any ? or #")
    return url.rstrip("/")


class Expression(BaseModel):
    """A JSONata expression and where its text stands, so that an error can point at it."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    text: str
    file: str = "expression"
    line: int = 1
    column: int = 1
    written: Any = Field(default=None, repr=False, exclude=True)  # Written, where it stands in YAML

    @model_validator(mode="before")
    @classmethod
    def _read(cls, value: Any, info: ValidationInfo) -> Any:
        source = info.context if isinstance(info.context, Source) else None
        match value:
            case Written():
                return _expression_in(value)
            case str():
                return {"text": value}
            case dict() if source is not None and len(value) == 1 and "file" in value:
                return _expression_file(_file_name(value, "JSONata text"), source)
            case dict() if source is None:
                return value
            case _:
                raise ValueError(
                    "must be JSONata text or {file: name}; text that YAML reads as a section or a "
                    "list needs quotes, or a block (|)"
                )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: Any, _: GetJsonSchemaHandler) -> dict[str, Any]:
        """Text, or a section with ``file``: what a file holds, not this class's own fields."""
        return dict(_FILE_SCHEMA)

    def locate(self, offset: int | None) -> str:
        """``file:line:column`` of the character at ``offset`` (0-based; ``None``: the start)."""
        offset = min(max(offset or 0, 0), len(self.text))
        if isinstance(self.written, Written):
            return self.written.document.at(self.written.offset(offset))
        before = self.text[:offset]
        line = before.count("\n")
        column = offset - (before.rfind("\n") + 1) + (self.column if line == 0 else 1)
        return f"{self.file}:{self.line + line}:{column}"


def _expression_in(written: Written) -> dict[str, Any]:
    if not written.scalar.text.strip():
        raise ValueError("is empty; an expression that changes nothing is $")
    if written.cut_by_comment():
        raise ValueError('"#$" begins a comment in YAML; put the expression in quotes')
    document = written.document
    line, column = document.position(written.offset(0))
    place = {"file": document.file, "line": line, "column": column, "written": written}
    return {"text": written.scalar.text, **place}


def _expression_file(name: str, source: Source) -> dict[str, Any]:
    if name in source.expressions:
        return source.expressions[name]
    written = as_written(name)
    if ".." in Path(name).parts or Path(name).is_absolute() or "\0" in name:
        raise ValueError(f"the file {quoted(written)} must be a name below transforms/, without ..")
    beside = Path(os.path.normpath(source.folder / ".." / "transforms"))
    folders = (beside, source.folder / "transforms", packaged("transforms"))
    found = next((each for each in folders if (each / name).exists()), None)
    for folder in folders[: None if found is None else folders.index(found)]:
        source.files[folder / name] = b""  # once it is there, it is the one that is meant
    if found is None:
        looked = " or ".join(str(folder / written) for folder in folders[:2])
        near = ""
        if written == name:
            names = [each.relative_to(root) for root in folders for each in root.rglob("*.jsonata")]
            near = did_you_mean(name, sorted(str(each) for each in names), ".jsonata")
        raise ValueError(f"there is no file {looked}{near}")
    source.expressions[name] = read_expression(found / name, str(found / written), source.files)
    return source.expressions[name]


def read_expression(
    path: Path, called: str | None = None, files: yamltext.Files | None = None
) -> dict[str, Any]:
    """The fields of an Expression for the JSONata file ``path``, which is noted in ``files``;
    messages name it ``called``.

    Raises ValueError, naming the file."""
    called = called or str(path)
    text = yamltext.read_text(
        path, bytes_max=EXPRESSION_BYTES_MAX, what=f"file {called}", files=files
    )
    if not text.strip():
        raise ValueError(f"the file {called} is empty")
    return {"text": text, "file": called}


WebUrl = Annotated[
    str,
    AfterValidator(partial(_checked_url, schemes=("http", "https"))),
    Words("a URL that begins with http:// or https://"),
]
TritonUrl = Annotated[
    str,
    AfterValidator(partial(_checked_url, schemes=("grpc", "grpcs", "http", "https"))),
    Words("a URL that begins with grpc://, grpcs://, http:// or https://"),
]
STORE_KINDS: Final = ("sqlite", "redis", "rediss")


def _store_url(value: str, info: ValidationInfo) -> str:
    """``sqlite:`` and an absolute path, or the URL of a Redis."""
    kind, colon, rest = value.partition(":")
    if not colon or kind not in STORE_KINDS:
        raise ValueError("must begin with sqlite:, redis:// or rediss://")
    if kind != "sqlite":
        return _checked_url(value, schemes=STORE_KINDS[1:])
    if not rest or "\0" in rest or rest.startswith("//"):
        raise ValueError("must name a file: sqlite:executions.db, or sqlite:/var/lib/executions.db")
    folder = info.context.folder if isinstance(info.context, Source) else Path()
    return f"sqlite:{Path(os.path.abspath(folder / rest))}"


class Pem(BaseModel):
    """A PEM file, which may change without the configuration: its absolute path, and what it held
    when it was read. That is what is used of it: whatever stands there by then was not checked."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    path: str
    text: SecretStr = Field(repr=False)
    #: When the first certificate in it ends, Unix seconds; 0: it holds none.
    expires: float = 0.0

    @model_validator(mode="before")
    @classmethod
    def _read(cls, value: Any, info: ValidationInfo) -> Any:
        if not isinstance(value, str) or not value or "\0" in value:
            raise ValueError("must be the path of a PEM file")
        source = info.context if isinstance(info.context, Source) else Source(Path())
        path = Path(os.path.abspath(source.folder / value))
        what = f"file {path}"
        text = yamltext.read_text(path, bytes_max=PEM_BYTES_MAX, what=what, files=source.files)
        if "-----BEGIN " not in text:
            raise ValueError(f"the {what} holds nothing in PEM form (-----BEGIN …)")
        expires = 0.0
        if "-----BEGIN CERTIFICATE-----" in text:
            try:
                _, expires = validity(text)
            except ValueError as error:
                raise ValueError(f"the {what} {error}") from error
        return {"path": str(path), "text": text, "expires": expires}

    @model_serializer
    def _written(self) -> str:
        return self.path

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: Any, _: GetJsonSchemaHandler) -> dict[str, Any]:
        """Text: the path."""
        return {"type": "string"}


def _network(value: str) -> str:
    try:
        return str(ip_network(value))
    except ValueError as error:
        raise ValueError(f"is no network: {error}") from None


StoreUrl = Annotated[
    str,
    AfterValidator(_store_url),
    Words("sqlite: and the path of a file, or a URL that begins with redis:// or rediss://"),
]
RedisUrl = Annotated[
    str,
    AfterValidator(partial(_checked_url, schemes=STORE_KINDS[1:])),
    Words("a URL that begins with redis:// or rediss://"),
]
PemFile = Annotated[Pem, Words("the path of a PEM file, relative to the configuration's folder")]
Network = Annotated[
    str, AfterValidator(_network), Words("a network such as 10.1.0.0/16", shown=True)
]
HeaderName = Annotated[str, AfterValidator(_header_name), Words("the name of a header", shown=True)]
KeyHash = Annotated[str, AfterValidator(_key_hash), Words("the SHA-256 of the key, 64 hex digits")]


def _need(value: Any) -> Any:
    if isinstance(value, str) and compile_pattern(r"all|any|[1-9][0-9]{0,3}").fullmatch(value):
        return str(value)
    raise ValueError("must be all, any, or a number from 1")


Need = Annotated[
    str,
    BeforeValidator(_need),
    WithJsonSchema({"anyOf": [{"enum": ["all", "any"]}, {"type": "integer", "minimum": 1}]}),
    Words("all, any, or a whole number from 1"),
]
WORKERS_MAX: Final = 256


def _workers(value: Any) -> Any:
    number = str(value)
    if number == "auto" or (
        compile_pattern(r"[1-9][0-9]{0,2}").fullmatch(number) and int(number) <= WORKERS_MAX
    ):
        return number
    raise ValueError(f"must be auto, or a whole number from 1 to {WORKERS_MAX}")


Workers = Annotated[
    str,
    BeforeValidator(_workers),
    WithJsonSchema(
        {
            "anyOf": [
                {"const": "auto"},
                {"type": "integer", "minimum": 1, "maximum": WORKERS_MAX},
            ]
        }
    ),
    Words(f"auto, or a whole number from 1 to {WORKERS_MAX}"),
]
Jsonata = Annotated[Expression, Words("JSONata text, or {file: name.jsonata}", literal=True)]
