"""Many small clients in one process, each following a conversation: a generator that yields what to send and the test that tells the whole
answer has come, and is sent that answer. Under TLS if they are told so."""

import errno
import selectors
import socket
import ssl
import struct
import time

from measure.process import LOOPBACK, Failure

_PATIENCE_SECONDS = 30
# What a PostgreSQL client says before its first message of TLS, and what it is answered.
_TLS_REQUEST, _TLS_CONSENT = struct.pack("!ii", 8, 80877103), b"S"
_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


class ClientTls:
    """How clients speak TLS. If they are to resume, the first one's session is kept for all that come after it."""

    def __init__(self, tls):
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._context.check_hostname = False
        self._context.verify_mode = ssl.CERT_NONE
        self._context.minimum_version = self._context.maximum_version = _VERSIONS[tls.version]
        self._resumes = tls.resumed
        self._session = None

    def wrap(self, plain):
        """A socket that has still to shake hands."""
        return self._context.wrap_socket(plain, do_handshake_on_connect=False, session=self._session)

    def keep(self, wrapped):
        """Of a client that has been answered, for tickets come after the handshake: true if its session was a resumed one."""
        if self._resumes and self._session is None:
            self._session = wrapped.session
        return bool(wrapped.session_reused)


class Client:
    """One connection and how far it has come. `wants` is what it waits for."""

    def __init__(self, port, conversation, tls=None):
        self.began = time.monotonic()
        self.answer = b""
        self._conversation = conversation
        self._request, self._is_whole = next(conversation)
        self._tls = tls
        self._go_on = self._connected
        self.wants = selectors.EVENT_WRITE
        self.socket = socket.socket()
        self.socket.setblocking(False)
        code = self.socket.connect_ex((LOOPBACK, port))
        if code not in (0, errno.EINPROGRESS):
            raise Failure(f"a client cannot connect: {errno.errorcode[code]}")

    def step(self):
        """Goes on with what has come; true at the end of the conversation."""
        return self._go_on()

    def _connected(self):
        code = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise Failure(f"a client cannot connect: {errno.errorcode[code]}")
        self.wants = selectors.EVENT_READ
        self._go_on = self._hear if self._tls is None else self._consented
        self.socket.sendall(self._request if self._tls is None else _TLS_REQUEST)
        return False

    def _consented(self):
        answer = self.socket.recv(1)
        if answer != _TLS_CONSENT:
            raise Failure(f"no TLS: {answer!r}")
        self.socket = self._tls.wrap(self.socket)
        self._go_on = self._shake_hands
        return self._shake_hands()

    def _shake_hands(self):
        try:
            self.socket.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except OSError as error:
            raise Failure(f"a client's TLS handshake failed: {error}") from error
        self._go_on = self._hear
        self.socket.sendall(self._request)
        return False

    def _hear(self):
        self.answer += self._receive()
        if not self._is_whole(self.answer):
            return False
        answer, self.answer = self.answer, b""
        try:
            self._request, self._is_whole = self._conversation.send(answer)
        except StopIteration:
            return True
        self.socket.sendall(self._request)
        return False

    def _receive(self):
        received = b""
        try:
            while True:  # a record of TLS at a time, and nobody wakes us for those that have been read from the socket already
                data = self.socket.recv(65536)
                if not data:
                    raise ConnectionResetError
                received += data
                if self._tls is None:
                    return received
        except (ssl.SSLWantReadError, BlockingIOError):
            return received
        except ConnectionResetError:
            raise Failure(f"a client was closed instead of answered; it had received {(self.answer + received)[-300:]!r}") from None

    def close(self):
        """Resets the connection, so that thousands of them leave no port behind in TIME_WAIT."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


def drive(port, conversation, at_once, wants_more, tls=None):
    """Yields each client that has come to its end. Keeps `at_once` under way for as long as `wants_more(started)`."""
    waiting = selectors.DefaultSelector()
    started = under_way = 0
    try:
        while True:
            while under_way < at_once and wants_more(started):
                client = Client(port, conversation(started), tls)
                waiting.register(client.socket, client.wants, client)
                started, under_way = started + 1, under_way + 1
            if under_way == 0:
                return
            events = waiting.select(timeout=_PATIENCE_SECONDS)
            if not events:
                raise Failure(f"{under_way} clients got no answer for {_PATIENCE_SECONDS} s; {started - under_way} had been served before")
            for key, mask in events:
                client = key.data
                if client.step():
                    waiting.unregister(client.socket)
                    under_way -= 1
                    yield client
                elif client.wants != mask:
                    waiting.modify(client.socket, client.wants, client)
    finally:
        waiting.close()


def connect(port, conversation, count, at_once=100):
    """`count` clients that have come to the end of their conversation and stay. Few enough at a time never to fill a wait queue."""
    return list(drive(port, conversation, at_once, lambda started: started < count))
