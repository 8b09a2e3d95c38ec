"""A client on Python's h2: `h2peer.py HOST:PORT CASE`, in front of `weir whoami`. Prints what it did; 1 when it is not right."""

import socket
import sys
import time

import h2.config
import h2.connection
import h2.events
import h2.settings

LIMIT = 60
PERIOD = 251
GOAWAY = 7


class Peer:
    """One connection; what comes is collected by stream."""

    def __init__(self, address, settings=None):
        host, port = address.rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)), LIMIT)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.h2 = h2.connection.H2Connection(config=h2.config.H2Configuration(header_encoding="utf-8"))
        self.h2.initiate_connection()
        self.h2.update_settings(settings or {})
        self.fields, self.bodies, self.trailers = {}, {}, {}
        self.ended, self.resets, self.goaways = set(), {}, []
        self.acknowledge, self.closed, self.input, self.agreed = True, False, b"", 0
        self.flush()
        # Windows that are smaller than the default hold from here on.
        self.until("its settings are agreed to", lambda: self.agreed == 2)

    def flush(self):
        data = self.h2.data_to_send()
        if data:
            self.socket.sendall(data)

    def turn(self):
        """Reads once and takes in what came."""
        data = self.socket.recv(65536)
        if not data:
            self.closed = True
            return
        self.input += data
        while len(self.input) >= 9 and len(self.input) >= (end := 9 + int.from_bytes(self.input[:3], "big")):
            frame, self.input = self.input[:end], self.input[end:]
            if frame[3] == GOAWAY:
                # h2 takes every GOAWAY for the end, also one that lets streams run on.
                self.goaways.append((int.from_bytes(frame[13:17], "big"), int.from_bytes(frame[9:13], "big")))
                continue
            for event in self.h2.receive_data(frame):
                self.take(event)
        self.flush()

    def take(self, event):
        if isinstance(event, h2.events.ResponseReceived):
            self.fields[event.stream_id] = dict(event.headers)
        elif isinstance(event, h2.events.DataReceived):
            self.bodies.setdefault(event.stream_id, bytearray()).extend(event.data)
            if self.acknowledge:
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.TrailersReceived):
            self.trailers[event.stream_id] = dict(event.headers)
        elif isinstance(event, h2.events.StreamEnded):
            self.ended.add(event.stream_id)
        elif isinstance(event, h2.events.StreamReset):
            self.resets[event.stream_id] = event.error_code
        elif isinstance(event, h2.events.SettingsAcknowledged):
            self.agreed += 1

    def until(self, what, condition):
        deadline = time.monotonic() + LIMIT
        while not condition():
            assert time.monotonic() < deadline, f"not in time: {what}"
            assert not self.closed, f"closed before {what}: {self.goaways}"
            self.turn()

    def head(self, method, path, more=(), end=True, **priority):
        stream = self.h2.get_next_available_stream_id()
        fields = [(":method", method), (":scheme", "http"), (":authority", "app.test"), (":path", path), *more]
        self.h2.send_headers(stream, fields, end_stream=end, **priority)
        self.flush()
        return stream

    def upload(self, stream, body, padding=None, trailers=None):
        """Sends a body within flow control, reading meanwhile."""
        at, extra = 0, (padding or 0) + (padding is not None)
        while at < len(body):
            room = min(self.h2.local_flow_control_window(stream), self.h2.max_outbound_frame_size) - extra
            if room <= 0:
                self.until("room", lambda: self.h2.local_flow_control_window(stream) > extra)
                continue
            self.h2.send_data(stream, body[at : at + room], pad_length=padding)
            at += room
            self.flush()
        if trailers:
            self.h2.send_headers(stream, trailers, end_stream=True)
        else:
            self.h2.end_stream(stream)
        self.flush()

    def whole(self, stream, status="200"):
        self.until(f"the end of stream {stream}", lambda: stream in self.ended or stream in self.resets)
        assert stream not in self.resets, f"stream {stream} was reset: {self.resets[stream]}"
        assert self.fields[stream][":status"] == status, self.fields[stream]
        return bytes(self.bodies.get(stream, b""))


def pattern(length, start=0):
    return (bytes(range(PERIOD)) * (length // PERIOD + 2))[start % PERIOD :][:length]


def priorities(address):
    peer = Peer(address)
    streams = []
    for weight in (1, 16, 256):
        depends = streams[-1] if streams else 0
        streams.append(
            peer.head("GET", f"/bytes/{weight * 100}", priority_weight=weight, priority_depends_on=depends, priority_exclusive=True)
        )
        peer.h2.prioritize(streams[-1], weight=257 - weight, depends_on=0)
        # Of a stream that is not open yet, as old browsers do.
        peer.h2.prioritize(streams[-1] + 100, weight=8, depends_on=streams[0])
    streams.append(peer.head("GET", "/bytes/5", more=[("priority", "u=0, i")]))
    for stream, length in zip(streams, (100, 1600, 25600, 5)):
        assert peer.whole(stream) == pattern(length)


def padding(address):
    peer = Peer(address)
    for length in (0, 1, 100, 255):
        body = pattern(200_000)
        stream = peer.head("POST", "/echo", end=False)
        peer.upload(stream, body, padding=length)
        assert peer.whole(stream) == body, length


def streams(address):
    """As many at once as the server allows, 2,000 in all; each answer belongs to its request."""
    peer = Peer(address)
    peer.until("its settings", lambda: peer.h2.remote_settings.max_concurrent_streams < 2**31)
    most = peer.h2.remote_settings.max_concurrent_streams
    total, begun, open_, sizes, widest = 2000, 0, set(), {}, 0
    while begun < total or open_:
        while begun < total and len(open_) < most:
            size = (begun * 37) % 3000
            stream = peer.head("GET", f"/bytes/{size}", more=[("x-request-tag", str(begun))])
            sizes[stream] = (size, str(begun))
            open_.add(stream)
            begun += 1
            widest = max(widest, len(open_))
        peer.turn()
        assert not peer.resets and not peer.closed, (peer.resets, peer.goaways)
        open_ -= peer.ended
    for stream, (size, tag) in sizes.items():
        assert peer.whole(stream) == pattern(size)
        assert peer.fields[stream]["x-request-tag"] == tag
    print(f"{total} streams, {widest} at once")


def large(address):
    """16 MiB up and down at once by windows of 64 KiB, then down by windows of 1,000 octets."""
    peer, body = Peer(address), pattern(16 << 20)
    stream = peer.head("POST", "/echo", end=False)
    peer.upload(stream, body)
    assert peer.whole(stream) == body
    stream = peer.head("POST", "/echo", more=[("content-length", str(len(body)))], end=False)
    peer.upload(stream, body)
    assert peer.whole(stream) == body
    small = Peer(address, {h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 1000})
    stream = small.head("GET", "/bytes/300000")
    assert small.whole(stream) == pattern(300_000)


def window(address):
    """A window that is not opened holds its stream only: nothing beyond it comes, the others are served, and it goes on."""
    peer = Peer(address, {h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 10_000})
    peer.acknowledge = False
    held = peer.head("GET", "/bytes/40000")
    peer.until("its window's worth", lambda: len(peer.bodies.get(held, b"")) == 10_000)
    for _ in range(4):
        assert peer.whole(peer.head("GET", "/bytes/5000")) == pattern(5000)
    assert len(peer.bodies[held]) == 10_000
    peer.h2.increment_flow_control_window(30_000, held)
    peer.flush()
    assert peer.whole(held) == pattern(40_000)


def trailers(address):
    peer = Peer(address)
    stream = peer.head("GET", "/chunked/5000", more=[("te", "trailers")])
    assert peer.whole(stream) == pattern(5000)
    assert peer.trailers[stream] == {"x-bytes": "5000"}, peer.trailers
    body = pattern(70_000)
    stream = peer.head("POST", "/echo", more=[("te", "trailers"), ("trailer", "x-sum")], end=False)
    peer.upload(stream, body, trailers=[("x-sum", "7")])
    assert peer.whole(stream) == body


def expect(address):
    peer = Peer(address)
    told = []
    take = peer.take
    peer.take = lambda event: (told.append(event) if isinstance(event, h2.events.InformationalResponseReceived) else None, take(event))
    stream = peer.head("POST", "/", more=[("expect", "100-continue"), ("content-length", "5")], end=False)
    peer.until("100", lambda: told)
    assert dict(told[0].headers)[":status"] == "100", told
    peer.upload(stream, b"hello")
    assert b"Body: 5 bytes" in peer.whole(stream)


def drain(address):
    """What runs while the server drains is answered; new streams are told where they end."""
    peer = Peer(address)
    running = [peer.head("GET", "/delay/1500") for _ in range(5)]
    upload = peer.head("POST", "/echo", end=False)
    print("running", flush=True)
    peer.until("GOAWAY", lambda: peer.goaways)
    body = pattern(300_000)
    peer.upload(upload, body)
    for stream in running:
        peer.whole(stream)
    assert peer.whole(upload) == body
    deadline = time.monotonic() + LIMIT
    while not peer.closed:
        assert time.monotonic() < deadline, "not closed"
        peer.turn()
    assert all(code == 0 for code, _ in peer.goaways), peer.goaways
    assert peer.goaways[-1][1] >= upload, peer.goaways
    # RFC 9113, 6.8: first one that stops new streams, with the highest number, then one with the last that is served.
    print(f"GOAWAY {[last for _, last in peer.goaways]}")


CASES = {case.__name__: case for case in (priorities, padding, streams, large, window, trailers, expect, drain)}

if __name__ == "__main__":
    CASES[sys.argv[2]](sys.argv[1])
    print(sys.argv[2])
