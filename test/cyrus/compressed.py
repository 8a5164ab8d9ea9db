"""Speaks MUPDATE in DEFLATE with Python's zlib, and follows the map.

usage: compressed.py HOST PORT USER PASSWORD
It prints what the server says after "Z01 OK".
"""

import base64
import socket
import sys
import zlib

host, port, user, password = sys.argv[1:]
s = socket.create_connection((host, int(port)), 10)
s.settimeout(10)
clear = s.makefile("rb")
while not clear.readline().startswith(b"* OK"):
    pass
s.sendall(b'A01 AUTHENTICATE "PLAIN" "' + base64.b64encode(("\0%s\0%s" % (user, password)).encode()) + b'"\r\n')
if not clear.readline().startswith(b"A01 OK"):
    raise SystemExit("not signed on")
s.sendall(b'Z01 COMPRESS "DEFLATE"\r\n')
if not clear.readline().startswith(b"Z01 OK"):
    raise SystemExit("not compressed")

press, expand = zlib.compressobj(9, zlib.DEFLATED, -15), zlib.decompressobj(-15)


def say(text, mode):
    # Sync flush ends at an octet; full flush forgets what came before as well.
    s.sendall(press.compress(text.encode()) + press.flush(mode))


def until(last):
    got = b""
    while last not in got:
        data = s.recv(65536)
        if not data:
            raise SystemExit("closed after %r" % got)
        got += expand.decompress(data)
    sys.stdout.write(got.decode())


for n in range(3):
    say('X%d FIND "user.u1"\r\n' % n, zlib.Z_SYNC_FLUSH if n % 2 else zlib.Z_FULL_FLUSH)
    until(b"X%d OK" % n)
say("".join('P%d FIND "user.u1"\r\n' % n for n in range(500)), zlib.Z_SYNC_FLUSH)
until(b"P499 OK")
say("Z02 COMPRESS \"DEFLATE\"\r\nU01 UPDATE\r\n", zlib.Z_SYNC_FLUSH)
until(b"U01 OK")
say("N01 NOOP\r\nQ01 LOGOUT\r\n", zlib.Z_SYNC_FLUSH)
until(b"Q01 OK")
