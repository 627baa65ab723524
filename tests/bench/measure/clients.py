"""Many small clients in one process, each following a conversation: a generator that yields what to send and the test that tells the whole
answer has come, and is sent that answer."""

import errno
import selectors
import socket
import struct
import time

from measure.process import LOOPBACK, Failure

_PATIENCE_SECONDS = 30


class Client:
    """One connection and how far it has come."""

    def __init__(self, port, conversation):
        self.conversation = conversation
        self.answer = b""
        self.began = time.monotonic()
        self.request, self.is_whole = next(conversation)
        self.socket = socket.socket()
        self.socket.setblocking(False)
        code = self.socket.connect_ex((LOOPBACK, port))
        if code not in (0, errno.EINPROGRESS):
            raise Failure(f"a client cannot connect: {errno.errorcode[code]}")

    def connected(self):
        """Sends the first request."""
        code = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise Failure(f"a client cannot connect: {errno.errorcode[code]}")
        self.socket.sendall(self.request)

    def hear(self):
        """Takes what has come and goes on; true at the end of the conversation."""
        try:
            data = self.socket.recv(65536)
        except ConnectionResetError:
            data = b""
        if not data:
            raise Failure(f"a client was closed instead of answered; it had received {self.answer[-300:]!r}")
        self.answer += data
        if not self.is_whole(self.answer):
            return False
        answer, self.answer = self.answer, b""
        try:
            self.request, self.is_whole = self.conversation.send(answer)
        except StopIteration:
            return True
        self.socket.sendall(self.request)
        return False

    def close(self):
        """Resets the connection, so that thousands of them leave no port behind in TIME_WAIT."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


def drive(port, conversation, at_once, wants_more):
    """Yields each client that has come to its end. Keeps `at_once` under way for as long as `wants_more(started)`."""
    waiting = selectors.DefaultSelector()
    started = under_way = 0
    try:
        while True:
            while under_way < at_once and wants_more(started):
                client = Client(port, conversation())
                waiting.register(client.socket, selectors.EVENT_WRITE, client)
                started, under_way = started + 1, under_way + 1
            if under_way == 0:
                return
            events = waiting.select(timeout=_PATIENCE_SECONDS)
            if not events:
                raise Failure(f"{under_way} clients got no answer for {_PATIENCE_SECONDS} s; {started - under_way} had been served before")
            for key, mask in events:
                client = key.data
                if mask & selectors.EVENT_WRITE:
                    client.connected()
                    waiting.modify(client.socket, selectors.EVENT_READ, client)
                elif client.hear():
                    waiting.unregister(client.socket)
                    under_way -= 1
                    yield client
    finally:
        waiting.close()
