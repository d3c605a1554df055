"""What is done around every call: validated, one at a time per volume, logged, failures mapped.

A service is a class whose coroutine methods are named as its RPCs and marked with :func:`rpc`. What
it has no method for is answered UNIMPLEMENTED. The status that a client gets is decided here and
nowhere else: from ``SlayerError.grpc_code``; anything else that is raised is INTERNAL, without the
exception's own words, which might hold what the request did.
"""

from __future__ import annotations

import asyncio
import time
import traceback
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, NoReturn, Protocol, TypeVar

import grpc
import grpc.aio
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from csi_slayer.csi.fields import check
from csi_slayer.csi.locks import KeyedLocks
from csi_slayer.csi.redact import scrub, secrets_of, shown
from csi_slayer.errors import SlayerError
from csi_slayer.observability import get_logger, log_context

log = get_logger(__name__)

LONGEST_MESSAGE: Final = 2000
"""Characters of a status message: it travels in a header of limited size."""

_RULES: Final = "_rpc_rules"

# The client's doing or a passing state: worth a line, but nothing to mend in the driver.
_EXPECTED: Final = frozenset(
    ("INVALID_ARGUMENT", "NOT_FOUND", "ALREADY_EXISTS", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED")
)

Method = TypeVar("Method", bound=Callable[..., Awaitable[Any]])
_Context = grpc.aio.ServicerContext[Any, Any]


class NotOffered(SlayerError):
    """The driver does not have this RPC."""

    grpc_code = "UNIMPLEMENTED"


class Observer(Protocol):
    """Told of every call that has ended, with the name of its status code."""

    def called(self, method: str, code: str, seconds: float) -> None: ...


@dataclass(frozen=True, slots=True)
class _Rules:
    required: tuple[str, ...] = ()
    one_at_a_time: str | None = None
    quiet: bool = False


def rpc(
    *required: str, one_at_a_time: str | None = None, quiet: bool = False
) -> Callable[[Method], Method]:
    """Mark an RPC's method. ``required``: fields that must be given. ``one_at_a_time``: the field
    that names what calls may not work on together. ``quiet``: success is logged as debug."""

    def mark(method: Method) -> Method:
        setattr(method, _RULES, _Rules(required, one_at_a_time, quiet))
        return method

    return mark


def status_of(error: BaseException, call: str) -> tuple[str, str]:
    """The code's name and the message for the client."""
    if isinstance(error, SlayerError):
        return error.grpc_code, str(error)
    return "INTERNAL", (
        f"unexpected {type(error).__name__}: the driver's log says more, under call {call}"
    )


class Calls:
    """Serves the RPCs of one process."""

    def __init__(self, observer: Observer, locks: KeyedLocks | None = None) -> None:
        self._observer = observer
        self._locks = KeyedLocks() if locks is None else locks

    def handler(self, service: object, descriptor: ServiceDescriptor) -> grpc.GenericRpcHandler:
        """What a server needs to serve ``service`` as the service that ``descriptor`` tells of."""
        handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
        for method in descriptor.methods:
            response = GetMessageClass(method.output_type)
            handlers[method.name] = grpc.unary_unary_rpc_method_handler(
                self._behaviour(service, method), response_serializer=response.SerializeToString
            )
        return grpc.method_handlers_generic_handler(descriptor.full_name, handlers)

    def _behaviour(
        self, service: object, method: MethodDescriptor
    ) -> Callable[[bytes, _Context], Awaitable[Message]]:
        message = GetMessageClass(method.input_type)
        implementation = getattr(service, method.name, None)
        rules: _Rules = getattr(implementation, _RULES, _Rules())

        async def run(request: Message) -> Message:
            if implementation is None:
                raise NotOffered(
                    f"this driver has no {method.name}: its capabilities say what it offers"
                )
            check(request, rules.required)
            if rules.one_at_a_time is None:
                answer: Message = await implementation(request)
                return answer
            key = (rules.one_at_a_time, getattr(request, rules.one_at_a_time))
            async with self._locks.hold(key):
                answer = await implementation(request)
                return answer

        async def serve(raw: bytes, context: _Context) -> Message:
            try:
                request = message.FromString(raw)
            except DecodeError:
                await context.abort(
                    grpc.StatusCode.INVALID_ARGUMENT, f"not a {message.DESCRIPTOR.full_name}"
                )
            call = _Call(method.name, request, rules.quiet, self._observer)
            with log_context(call=call.id):
                try:
                    answer = await run(request)
                except asyncio.CancelledError:
                    call.ended("CANCELLED", "the caller gave up")
                    raise
                except Exception as error:
                    await call.failed(error, context)
                call.ended("OK")
                return answer

        return serve


class _Call:
    """One call's line in the log."""

    def __init__(self, method: str, request: Message, quiet: bool, observer: Observer) -> None:
        self.id = uuid.uuid4().hex[:12]
        self._method = method
        self._request = request
        self._quiet = quiet
        self._observer = observer
        self._started = time.monotonic()

    def ended(self, code: str, message: str | None = None, trace: str | None = None) -> None:
        seconds = time.monotonic() - self._started
        self._observer.called(self._method, code, seconds)
        values: dict[str, object] = {
            "method": self._method,
            "code": code,
            "seconds": round(seconds, 4),
            "fields": shown(self._request),
        }
        if message is not None:
            values["error"] = message
        if trace is not None:
            values["trace"] = trace
        if code == "OK":
            (log.debug if self._quiet else log.info)("call", **values)
        elif trace is None and (code in _EXPECTED or code == "CANCELLED"):
            log.info("call", **values)
        else:
            log.warning("call failed", **values)

    async def failed(self, error: Exception, context: _Context) -> NoReturn:
        """Log it and answer the client. Raises what gRPC ends a call with."""
        code, message = status_of(error, self.id)
        secrets = secrets_of(self._request)
        message = scrub(message, secrets)[:LONGEST_MESSAGE]
        trace = None
        if not isinstance(error, SlayerError):
            trace = scrub("".join(traceback.format_exception(error)), secrets)
        self.ended(code, message, trace)
        await context.abort(grpc.StatusCode[code], message)
