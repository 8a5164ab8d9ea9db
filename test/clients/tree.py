"""Walks the whole tree of a user with Python's imaplib and changes some of it.

usage: tree.py HOST PORT USER PASSWORD read | work [clear | starttls | tls CA]
"read" prints one line for each message: folder, Message-ID, flags, digest of the body.
"work" creates, appends, flags, copies and moves between servers, renames, and deletes again.
"""

import hashlib
import imaplib
import re
import ssl
import sys


def check(answer):
    kind, data = answer
    if kind != "OK":
        raise SystemExit("refused: %r" % (data,))
    return data


def quote(name):
    return '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'


def folders(m):
    for line in check(m.list()):
        flags, name = re.match(rb'\((.*?)\) "/" (.*)', line).groups()
        if b"\\Noselect" not in flags:
            yield name.decode().strip('"')


def read(m):
    for folder in folders(m):
        check(m.select(quote(folder), readonly=True))
        numbers = check(m.search(None, "ALL"))[0].split()
        for n in numbers:
            (head, body), _ = check(m.fetch(n, "(FLAGS BODY.PEEK[])"))
            flags = sorted(f.decode() for f in imaplib.ParseFlags(head) if f != b"\\Recent")
            mid = re.search(rb"(?i)^message-id: (.*?)\r$", body, re.M).group(1).decode()
            print(folder, mid, ",".join(flags), hashlib.sha256(body).hexdigest()[:16], sep="\t")


def work(m):
    body = b"Message-ID: <py@example.com>\r\nSubject: python\r\n\r\nhello\r\n"
    check(m.create("Py"))
    check(m.append("Py", r"(\Seen)", imaplib.Time2Internaldate(0), body))
    check(m.append("Py", None, None, body.replace(b"py@", b"py2@")))
    check(m.subscribe("Py"))
    check(m.select("Py"))
    check(m.store("2", "+FLAGS", r"(\Flagged)"))
    check(m.copy("1:2", quote("Shared Folders/shared")))
    check(m._simple_command("MOVE", "2", quote("Other Users/bob/proj")))
    if check(m.search(None, "ALL"))[0].split() != [b"1"]:
        raise SystemExit("the moved message is still there")
    check(m.unselect() if hasattr(m, "unselect") else m.close())
    check(m.rename("Py", "Python"))
    check(m.select("Python"))
    check(m.unsubscribe("Py"))
    check(m.getquotaroot("INBOX"))
    check(m.myrights("INBOX"))


def main():
    host, port, user, password, what = sys.argv[1:6]
    how, ca = (sys.argv[6:] + ["clear", None])[:2]
    trust = ssl.create_default_context(cafile=ca) if how != "clear" else None
    m = imaplib.IMAP4_SSL(host, int(port), ssl_context=trust) if how == "tls" else imaplib.IMAP4(host, int(port))
    if how == "starttls":
        check(m.starttls(trust))
    m.login(user, password)
    {"read": read, "work": work}[what](m)
    m.logout()


main()
