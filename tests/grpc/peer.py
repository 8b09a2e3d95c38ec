"""A gRPC server and a gRPC client of Google's own make, without generated code: messages are octets.

peer.py server            prints its port, serves until its input ends
peer.py client ADDRESS    makes calls of every kind, prints what it made; exits with an error where one went wrong
peer.py load ADDRESS N    makes N calls, 16 at a time, and prints how many failed
"""

import queue
import sys
import threading
from concurrent import futures

import grpc

NAME = "t.Peer"
BEGUN = threading.Semaphore(0)
CANCELLED = threading.Semaphore(0)


def unary(request, context):
    context.set_trailing_metadata((("x-length", str(len(request))), ("x-raw-bin", b"\x00\xff")))
    return request


def fails(request, context):
    context.abort(grpc.StatusCode.NOT_FOUND, "no such thing: 100 % n\u00f6")


def collects(requests, context):
    return b",".join(requests)


def counts(request, context):
    for number in range(int(request)):
        yield b"%d" % number


def answers(requests, context):
    for request in requests:
        yield b"re:" + request


def hangs(request, context):
    ended = threading.Event()
    # It may have ended before this was reached.
    is_on = context.add_callback(ended.set)
    BEGUN.release()
    if is_on:
        ended.wait(30)
    CANCELLED.release()
    return b""


def begun(request, context):
    return b"yes" if BEGUN.acquire(timeout=20) else b"no"


def cancelled(request, context):
    return b"yes" if CANCELLED.acquire(timeout=20) else b"no"


def health(request, context):
    # HealthCheckRequest { service = 1 }: the server as a whole serves, "sick" does not, others are not known.
    known = {b"": b"\x08\x01", b"\x0a\x04sick": b"\x08\x02"}
    if request not in known:
        context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
    return known[request]


def server():
    checks = {"Check": grpc.unary_unary_rpc_method_handler(health)}
    handlers = {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "Fails": grpc.unary_unary_rpc_method_handler(fails),
        "Collects": grpc.stream_unary_rpc_method_handler(collects),
        "Counts": grpc.unary_stream_rpc_method_handler(counts),
        "Answers": grpc.stream_stream_rpc_method_handler(answers),
        "Hangs": grpc.unary_unary_rpc_method_handler(hangs),
        "Begun": grpc.unary_unary_rpc_method_handler(begun),
        "Cancelled": grpc.unary_unary_rpc_method_handler(cancelled),
    }
    serving = grpc.server(futures.ThreadPoolExecutor(32))
    serving.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(NAME, handlers),))
    serving.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("grpc.health.v1.Health", checks),))
    print(serving.add_insecure_port("127.0.0.1:0"), flush=True)
    serving.start()
    sys.stdin.read()
    serving.stop(5).wait()


def path(method):
    return f"/{NAME}/{method}"


def equal(got, wanted):
    if got != wanted:
        raise AssertionError(f"{got!r} instead of {wanted!r}")


def code_of(work):
    try:
        work()
    except grpc.RpcError as error:
        return error
    raise AssertionError("the call went well")


def client(address):
    channel = grpc.insecure_channel(address)
    echo = channel.unary_unary(path("Unary"))
    for size in (0, 1, 65_535, 3_000_000):
        answer, call = echo.with_call(b"x" * size, timeout=20)
        equal(answer, b"x" * size)
        trailers = dict(call.trailing_metadata())
        equal((trailers["x-length"], trailers["x-raw-bin"]), (str(size), b"\x00\xff"))
    print("unary")
    error = code_of(lambda: channel.unary_unary(path("Fails"))(b"", timeout=20))
    equal((error.code(), error.details()), (grpc.StatusCode.NOT_FOUND, "no such thing: 100 % n\u00f6"))
    print("status")
    parts = [b"%d" % number for number in range(100)]
    equal(channel.stream_unary(path("Collects"))(iter(parts), timeout=20), b",".join(parts))
    print("client streaming")
    equal(list(channel.unary_stream(path("Counts"))(b"100", timeout=20)), parts)
    print("server streaming")
    asked = queue.Queue()
    talk = channel.stream_stream(path("Answers"))(iter(asked.get, None), timeout=20)
    for part in parts:
        # Each question waits for the answer to the one before: both directions are open.
        asked.put(part)
        equal(next(talk), b"re:" + part)
    asked.put(None)
    equal(list(talk), [])
    print("bidirectional streaming")
    hang = channel.unary_unary(path("Hangs"))
    was_cancelled = channel.unary_unary(path("Cancelled"))
    has_begun = channel.unary_unary(path("Begun"))
    call = hang.future(b"", timeout=2)
    equal(has_begun(b"", timeout=25), b"yes")
    equal(code_of(call.result).code(), grpc.StatusCode.DEADLINE_EXCEEDED)
    equal(was_cancelled(b"", timeout=25), b"yes")
    print("deadline")
    call = hang.future(b"", timeout=20)
    equal(has_begun(b"", timeout=25), b"yes")
    call.cancel()
    equal(was_cancelled(b"", timeout=25), b"yes")
    print("cancellation")
    error = code_of(lambda: channel.unary_unary("/t.Nothing/At")(b"", timeout=20))
    equal(error.code(), grpc.StatusCode.UNIMPLEMENTED)
    print("unknown method")


def load(address, calls):
    channel = grpc.insecure_channel(address)
    echo = channel.unary_unary(path("Unary"))

    def one(number):
        wanted = b"%d" % number
        try:
            return echo(wanted, timeout=20) != wanted
        except grpc.RpcError as error:
            print(error.code(), error.details(), file=sys.stderr)
            return True

    with futures.ThreadPoolExecutor(16) as pool:
        print(sum(pool.map(one, range(calls))))


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["server"]:
            server()
        case ["client", address]:
            client(address)
        case ["load", address, calls]:
            load(address, int(calls))
